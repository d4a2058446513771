package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
)

// FuzzMetadata puts anything in the place of one file of the repository: nothing panics, and nothing is taken that was not signed.
func FuzzMetadata(f *testing.F) {
	fl := newFleet(f)
	src := &mem{files: fl.copyFiles(), whole: true}
	r := fl.gateway(src).open()
	require.NoError(f, r.Refresh(context.Background()))
	fl.newRoot(func() {})
	fl.next(targets)
	honest := fl.copyFiles()
	names := []string{"2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"}
	// Numbers, not bytes: the engine would spend its time making them shorter, as maps have another order each time.
	for which := range uint8(4) {
		f.Add(which, uint8(0), uint16(0), uint8(0), uint8(0), uint16(0), uint8(0))
		f.Add(which, uint8(1), uint16(40), uint8(3), uint8(6), uint16(90), uint8(7))
		f.Add(which, uint8(4), uint16(60), uint8(200), uint8(5), uint16(300), uint8(1))
		f.Add(which, uint8(3), uint16(0), uint8(0), uint8(7), uint16(0), uint8(0))
	}
	f.Fuzz(func(t *testing.T, which, op1 uint8, at1 uint16, n1, op2 uint8, at2 uint16, n2 uint8) {
		data := damage(damage(honest[names[which%4]], op1, at1, n1), op2, at2, n2)
		v, err := r.begin()
		require.NoError(t, err)
		which %= 4
		steps := []func(raw []byte) error{
			func(raw []byte) error { return r.addRoot(v, raw) },
			func(raw []byte) error { return r.addTimestamp(v, raw) },
			func(raw []byte) error { return r.addSnapshot(v, raw, false) },
			func(raw []byte) error { return r.addRole(v, targets, root, raw) },
		}
		for i, name := range names[:which] {
			require.NoError(t, steps[i](honest[name]))
		}
		if steps[which](data) == nil { // the same in other clothes
			var got, want struct{ Signed any }
			require.NoError(t, json.Unmarshal(data, &got))
			require.NoError(t, json.Unmarshal(honest[names[which]], &want))
			require.Equal(t, want, got)
		} else {
			require.NotContains(t, v.files, []string{"", timestamp, snapshot, targets}[which])
		}
	})
}

// damage changes one place of a file.
func damage(data []byte, op uint8, at uint16, n uint8) []byte {
	i := int(at) % (len(data) + 1)
	j := min(len(data), i+int(n))
	tokens := []string{"null", "{}", "[]", `""`, "-1", "1e99", "true", `"\\u0000"`, `{"x":null}`, "[null]", "9223372036854775808"}
	token := []byte(tokens[int(n)%len(tokens)])
	switch op % 9 {
	case 1:
		return slices.Concat(data[:i], data[j:])
	case 2:
		return slices.Concat(data[:i], []byte{n}, data[min(len(data), i+1):])
	case 3:
		return data[:i]
	case 4:
		return slices.Concat(data[:i], data[i:j], data[i:j], data[j:])
	case 5:
		return slices.Concat(data[:i], token, data[i:])
	case 6, 7: // the value or the word after that place
		if k := bytes.IndexByte(data[i:], ':'); k >= 0 {
			i += k + 1
		}
		if end := bytes.IndexAny(data[i:], ",}"); end >= 0 && op%9 == 6 {
			return slices.Concat(data[:i], token, data[i+end:])
		}
		return slices.Concat(data[:i], token)
	case 8:
		return token
	}
	return data
}

// FuzzCache puts anything in the place of a cached file.
func FuzzCache(f *testing.F) {
	f.Add([]byte("x  root.json\n"), true)
	f.Add(makeSum(map[string][]byte{"root": {}}), true)
	f.Add(makeSum(nil), true)
	f.Add([]byte("  SUM\n"), true)
	f.Add([]byte(`{"offset":1,"state":"","crc":1}`), false)
	f.Fuzz(func(t *testing.T, data []byte, sum bool) {
		fs := crashfs.New(1)
		if sum {
			require.NoError(t, fs.MkdirAll("/trust/gen-7", 0o700))
			require.NoError(t, durable.Replace(fs, "/trust/gen-7/SUM", data, 0o600))
			_, err := cache{fs, "/trust"}.load()
			require.NoError(t, err)
			return
		}
		want, name := blob(3000)
		require.NoError(t, fs.MkdirAll("/stage", 0o700))
		require.NoError(t, durable.Replace(fs, "/stage/"+name+".journal", data, 0o600))
		require.NoError(t, durable.Replace(fs, "/stage/"+name+".part", data, 0o600))
		d := &Downloader{FS: fs, Source: newMem(want, name), Dir: "/stage"}
		path, err := d.Fetch(context.Background(), name, 3000)
		if err != nil { // a journal that was made to fit
			require.Equal(t, CodeFetchHash, code(err))
			path, err = d.Fetch(context.Background(), name, 3000)
		}
		require.NoError(t, err)
		got, err := durable.Read(fs, path, 1<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 5-9/*", "bytes 5-9/10", "bytes 9-5/10", "bytes */10", "", "bytes 0-9223372036854775807/9223372036854775807", "bytes -1--2/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, size, err := contentRange(s)
		if err == nil {
			require.GreaterOrEqual(t, first, int64(0))
			require.True(t, size == -1 || first < size, s)
		}
	})
}

// Any order of honest news, revoked keys, replays, withheld files, torn caches and restarts: no role of the same keys ever goes
// back, no order older than one that was seen is given out by a refreshed repository, and an honest end is enough.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		f := newFleet(t)
		src := &mem{files: f.copyFiles(), whole: true}
		g := f.gateway(src)
		r := g.open()
		past := []map[string][]byte{f.copyFiles()}
		seen := map[string]int64{} // by role
		for range rapid.IntRange(2, 8).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"news", "root", "replay", "withhold", "tear", "restart", "honest"}).Draw(rt, "step") {
			case "news":
				f.next("releases-p1")
				past = append(past, f.copyFiles())
				src.files = f.copyFiles()
			case "root":
				f.newRoot(func() { f.rekey(timestamp, 1) })
				f.next()
				past = append(past, f.copyFiles())
				src.files = f.copyFiles()
			case "replay":
				src.files = maps.Clone(rapid.SampledFrom(past).Draw(rt, "when"))
			case "withhold":
				var names []string
				for name := range src.files {
					names = append(names, name)
				}
				if len(names) > 0 {
					src.files = maps.Clone(src.files)
					delete(src.files, rapid.SampledFrom(sortedStrings(names)).Draw(rt, "file"))
				}
			case "tear":
				gens, err := g.fs.ReadDir(g.o.Dir)
				require.NoError(rt, err)
				if len(gens) == 0 {
					continue
				}
				dir := g.o.Dir + "/" + gens[rapid.IntRange(0, len(gens)-1).Draw(rt, "generation")].Name()
				files, err := g.fs.ReadDir(dir)
				require.NoError(rt, err)
				if len(files) > 0 {
					name := dir + "/" + files[rapid.IntRange(0, len(files)-1).Draw(rt, "torn")].Name()
					h, err := g.fs.OpenFile(name, os.O_WRONLY, 0)
					require.NoError(rt, err)
					require.NoError(rt, h.Truncate(int64(rapid.IntRange(0, 100).Draw(rt, "length"))))
					require.NoError(rt, h.Close())
				}
				r = g.open()
			case "restart":
				r = g.open()
			case "honest":
				src.files = f.copyFiles()
			}
			err := r.Refresh(ctx)
			if err != nil {
				continue
			}
			for _, s := range r.State().Roles {
				if s.Name == snapshot { // other keys of the timestamp let it start anew
					continue
				}
				key := s.Name
				if len(s.Keys) > 0 && s.Name != root {
					key += s.Keys[0]
				}
				require.GreaterOrEqual(rt, s.Version, seen[key], key)
				seen[key] = s.Version
			}
		}
		src.files = f.copyFiles()
		r = g.open()
		require.NoError(rt, r.Refresh(ctx))
		require.Equal(rt, f.root.Signed.Version, version(r, root))
		require.Equal(rt, f.stamp.Signed.Version, version(r, timestamp))
	})
}
