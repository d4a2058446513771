package trust

import (
	"bytes"
	"context"
	"maps"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
)

// FuzzRefresh puts anything in the place of one file of the repository: nothing panics, nothing that was not signed is in force
// afterwards, and honesty is enough.
func FuzzRefresh(f *testing.F) {
	fl := newFleet(f)
	old := fl.copyFiles()
	fl.newRoot(func() {})
	fl.next(targets)
	honest := fl.copyFiles()
	names := []string{"2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"}
	for i, name := range names {
		f.Add(honest[name], uint8(i))
		f.Add(honest[name][:len(honest[name])/2], uint8(i))
		f.Add(bytes.Replace(honest[name], []byte(`"version":2`), []byte(`"version":null`), 1), uint8(i))
	}
	f.Add([]byte("null"), uint8(0))
	f.Add([]byte(`{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[null]}`), uint8(3))
	f.Add([]byte(`{"signed":{"_type":"snapshot","meta":{"targets.json":null}},"signatures":[]}`), uint8(2))
	f.Add([]byte(`{"signed":{"_type":"root","roles":{"root":null},"keys":{"":null}},"signatures":[]}`), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, which uint8) {
		ctx := context.Background()
		name := names[int(which)%len(names)]
		src := &mem{files: maps.Clone(old), whole: true}
		g := fl.gateway(src)
		g.t = t
		r := g.open()
		require.NoError(t, r.Refresh(ctx))
		src.files = maps.Clone(honest)
		src.files[name] = data
		err := r.Refresh(ctx)
		if err == nil {
			// The same signed part in other clothes is as good.
			require.Equal(t, int64(2), version(r, timestamp))
		}
		for role, raw := range r.Files() {
			v := version(r, role)
			require.LessOrEqual(t, v, int64(2))
			if bytes.Equal(raw, data) && err != nil {
				require.True(t, role == root || bytes.Equal(raw, old["1."+role+".json"]) || bytes.Equal(raw, old["timestamp.json"]), "%s is in force", role)
			}
		}
		src.files = honest
		require.NoError(t, g.open().Refresh(ctx))
	})
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
