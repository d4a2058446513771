package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func code(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return ""
}

var hashA, hashB, hashC = strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)

const goodManifest = `{"schema":1,"product":"gateway-v2","platform":"linux-armv6","version":"1.9.1","counter":141,"security_floor":120,
 "hw":["raspberrypi,model-zero-w","rpi-1"],"requires":{"min_counter":100,"launcher":2},
 "parts":[
  {"name":"agent","backend":"slot","sha256":"AAA","size":15138978,
   "encodings":[{"enc":"bsdiff40","base":"BBB","sha256":"CCC","size":112327},
                {"enc":"zstd","window_log":21,"sha256":"BBB","size":4635948}]},
  {"name":"io-mcu","backend":"mcuboot","board":"io-v3","sha256":"CCC","size":180224,"image_hash":"x","encodings":[]}],
 "health":{"stable_s":600,"deadline_s":1800,"need_server":true},
 "order":["agent"],"issued":1700000000}`

const goodRollouts = `{"schema":1,"product":"gateway-v2","serial":7,
 "releases":[{"counter":140,"version":"1.9.0","platforms":["linux-arm64","linux-armv6"],"state":"released"},
             {"counter":141,"version":"1.9.1","platforms":["linux-arm64"],"state":"rolling"}],
 "rollouts":[{"id":"r-1","counter":141,"version":"1.9.1","state":"running",
   "groups":[{"name":"lab","gateways":["gw-1","gw-2"],"first":"gw-1","state":"done","open_to":100},
             {"name":"some","percent":10,"state":"open","open_to":50},
             {"name":"all","percent":100,"state":"waiting"}],
   "success_percent":90,"error_percent":5,"error_count":3,"soak_s":3600,"verdict_after_s":86400,"window":"22:00-05:00"}]}`

const goodOrder = `{"gateway":"gw-0017","serial":9,"home":{"cloud":"mqtt","Settings":{"A":null,"a":[1,2]}},
 "release":{"product":"gateway-v2","version":"1.9.1","counter":141,"pin":true},"settings":{"Boiler/Flow":{"every":"10s"}}}`

const goodEnrolment = `{"gateway":"gw-0017","age_recipient":"age1AGE","ed25519":"AAA","hardware":["raspberrypi,4-model-b","brcm,bcm2711"],"agent":"1.9.1"}`

func fill(s string) string {
	return strings.NewReplacer("AAA", hashA, "BBB", hashB, "CCC", hashC, "age1AGE", "age1"+strings.Repeat("q", 58)).Replace(s)
}

// kinds are the files with a good one each, and what reads and writes it.
var kinds = map[string]struct {
	good  string
	round func([]byte) ([]byte, error)
}{
	"manifest":  {goodManifest, round(ParseManifest)},
	"rollouts":  {goodRollouts, round(ParseRollouts)},
	"order":     {goodOrder, round(ParseOrder)},
	"enrolment": {goodEnrolment, round(ParseEnrolment)},
}

func round[T interface{ Encode() ([]byte, error) }](parse func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		v, err := parse(data)
		if err != nil {
			return nil, err
		}
		return v.Encode()
	}
}

func TestGood(t *testing.T) {
	for name, kind := range kinds {
		once, err := kind.round([]byte(fill(kind.good)))
		require.NoError(t, err, name)
		twice, err := kind.round(once)
		require.NoError(t, err, name)
		require.Equal(t, string(once), string(twice), "what is written reads back as the same")
		var a, b any
		require.NoError(t, json.Unmarshal([]byte(fill(kind.good)), &a))
		require.NoError(t, json.Unmarshal(once, &b))
		if name != "manifest" { // its second part has keys that are another program's
			require.Equal(t, dropZero(a), dropZero(b), name)
		}
	}
	m, err := ParseManifest([]byte(fill(goodManifest)))
	require.NoError(t, err)
	require.Len(t, m.Needed(), 1)
	require.Equal(t, "agent", m.Agent().Name)
}

// dropZero leaves out what is written as nothing.
func dropZero(v any) any {
	if m, ok := v.(map[string]any); ok {
		for k, e := range m {
			if e == false || e == 0.0 || e == "" {
				delete(m, k)
				continue
			}
			dropZero(e)
		}
	}
	if a, ok := v.([]any); ok {
		for _, e := range a {
			dropZero(e)
		}
	}
	return v
}

// TestRefused: each row changes one thing in a good file.
func TestRefused(t *testing.T) {
	type row struct{ name, old, new, code, want string }
	for kind, rows := range map[string][]row{
		"manifest": {
			{"unknown schema", `"schema":1`, `"schema":2`, "rel.schema", `schema: "2": want 1`},
			{"schema as text", `"schema":1`, `"schema":"1"`, "rel.schema", "want 1"},
			{"no schema", `"schema":1,`, ``, "rel.schema", "missing"},
			{"schema before all else", `"schema":1,"product":"gateway-v2"`, `"schema":9,"product":[1]`, "rel.schema", "want 1"},
			{"a key twice", `"counter":141`, `"counter":141,"counter":142`, "rel.malformed", `"counter": want each key once`},
			{"a key twice, once escaped", `"counter":141`, `"counter":141,"c\u006funter":142`, "rel.malformed", "each key once"},
			{"a key twice in a part", `"size":15138978`, `"size":15138978,"size":1`, "rel.malformed", "parts: \"size\": want each key once"},
			{"a key twice deep in what is unknown", `"issued"`, `"x":[{"y":{"z":1,"z":1}}],"issued"`, "rel.malformed", `"z": want each key once`},
			{"a key in other letters", `"counter":141`, `"counter":141,"Counter":142`, "rel.malformed", `key: "Counter"`},
			{"a key that folds", `"health"`, `"healt\u212a":1,"health"`, "rel.malformed", "key"},
			{"an empty key", `"counter":141`, `"":1,"counter":141`, "rel.malformed", "key"},
			{"null", `"hw":["raspberrypi,model-zero-w","rpi-1"]`, `"hw":null`, "rel.malformed", "hw: \"null\""},
			{"null in an array", `"rpi-1"`, `null`, "rel.malformed", "null"},
			{"no UTF-8", `gateway-v2`, "gateway-\xff", "rel.malformed", "UTF-8"},
			{"another type", `"counter":141`, `"counter":"141"`, "rel.malformed", "counter: string"},
			{"a fraction", `"counter":141`, `"counter":141.5`, "rel.malformed", "counter"},
			{"negative", `"counter":141`, `"counter":-1`, "rel.malformed", "counter"},
			{"beyond what JSON carries", `"counter":141`, `"counter":9007199254740993`, "rel.malformed", "want 1 to"},
			{"beyond 64 bits", `"counter":141`, `"counter":99999999999999999999`, "rel.malformed", "counter"},
			{"counter zero", `"counter":141`, `"counter":0`, "rel.malformed", "counter: 0"},
			{"product with a slash", `gateway-v2`, `gateway/v2`, "rel.malformed", "product"},
			{"product is a path", `gateway-v2`, `..`, "rel.malformed", "product"},
			{"product with a pattern", `gateway-v2`, `gateway-*`, "rel.malformed", "product"},
			{"product missing", `"product":"gateway-v2",`, ``, "rel.malformed", "product: missing"},
			{"platform with a slash", `linux-armv6`, `linux/armv6`, "rel.malformed", "platform"},
			{"version with a blank", `1.9.1`, `1.9 1`, "rel.malformed", "version"},
			{"version of escapes", `1.9.1`, `\u001b[31m`, "rel.malformed", `version: "\x1b[31m"`},
			{"floor above the release", `"security_floor":120`, `"security_floor":142`, "rel.malformed", "at most the release's own counter, 141"},
			{"needs itself", `"min_counter":100`, `"min_counter":141`, "rel.malformed", "less than the release's own counter"},
			{"deadline before stable", `"deadline_s":1800`, `"deadline_s":599`, "rel.malformed", "at least stable_s, 600"},
			{"no health", `"health":{"stable_s":600,"deadline_s":1800,"need_server":true},`, ``, "rel.malformed", "stable_s"},
			{"endless trial", `"deadline_s":1800`, `"deadline_s":99999999`, "rel.malformed", "deadline_s"},
			{"hardware twice", `"rpi-1"`, `"raspberrypi,model-zero-w"`, "rel.malformed", "each hardware once"},
			{"hardware with a blank", `"rpi-1"`, `"rpi 1"`, "rel.malformed", "hw"},
			{"two parts of one name", `"name":"io-mcu"`, `"name":"agent"`, "rel.malformed", "each part once"},
			{"part is a path", `"name":"io-mcu"`, `"name":"../x"`, "rel.malformed", "parts: name"},
			{"no agent", `"name":"agent"`, `"name":"agent2"`, "rel.malformed", "order"},
			{"order without the agent", `"order":["agent"]`, `"order":["io-mcu"]`, "rel.backend", "io-mcu"},
			{"order names no part", `"order":["agent"]`, `"order":["agent","os"]`, "rel.malformed", `order: "os"`},
			{"order names a part twice", `"order":["agent"]`, `"order":["agent","agent"]`, "rel.malformed", "each part once"},
			{"unknown backend of a needed part", `"order":["agent"]`, `"order":["io-mcu","agent"]`, "rel.backend", `"mcuboot": want slot`},
			{"no order: all are needed", `"order":["agent"],`, ``, "rel.backend", "mcuboot"},
			{"no parts", `"parts":[`, `"parts":[],"other":[`, "rel.malformed", "order"},
			{"hash in capitals", hashA, strings.Repeat("A", 64), "rel.malformed", "SHA-256"},
			{"hash too short", hashA, hashA[1:], "rel.malformed", "SHA-256"},
			{"hash is a path", hashA, "../" + hashA[3:], "rel.malformed", "SHA-256"},
			{"size zero", `"size":15138978`, `"size":0`, "rel.malformed", "size"},
			{"size negative", `"size":15138978`, `"size":-5`, "rel.malformed", "size"},
			{"size beyond 256 MiB", `"size":15138978`, `"size":268435457`, "rel.malformed", "size"},
			{"blob beyond 256 MiB", `"size":4635948`, `"size":268435457`, "rel.malformed", "size"},
			{"window too large", `"window_log":21`, `"window_log":24`, "rel.malformed", "window_log"},
			{"no window", `"window_log":21,`, ``, "rel.malformed", "window_log"},
			{"whole with a base", `"window_log":21`, `"window_log":21,"base":"` + hashB + `"`, "rel.malformed", "base"},
			{"patch without base", `"base":"` + hashB + `",`, ``, "rel.malformed", "base"},
			{"patch of itself", `"base":"` + hashB + `"`, `"base":"` + hashA + `"`, "rel.malformed", "base"},
			{"nothing whole", `"enc":"zstd"`, `"enc":"zstd2"`, "rel.malformed", "enc zstd"},
			{"text behind", `"issued":1700000000}`, `"issued":1700000000} {}`, "rel.malformed", "want one JSON object"},
			{"cut", `"issued":1700000000}`, ``, "rel.malformed", "want one JSON object"},
		},
		"rollouts": {
			{"unknown schema", `"schema":1`, `"schema":3`, "rel.schema", "want 1"},
			{"serial zero", `"serial":7`, `"serial":0`, "rel.malformed", "serial"},
			{"unknown state of a release", `"state":"released"`, `"state":"offered"`, "rel.malformed", "one of added rolling released halted removed"},
			{"releases out of order", `"counter":140`, `"counter":142`, "rel.malformed", "ascending"},
			{"a release twice", `"counter":140`, `"counter":141`, "rel.malformed", "ascending"},
			{"platform twice", `"linux-armv6"`, `"linux-arm64"`, "rel.malformed", "each platform once"},
			{"rollout of no release", `"id":"r-1","counter":141`, `"id":"r-1","counter":139`, "rel.malformed", "that is listed"},
			{"rollout of another version", `"id":"r-1","counter":141,"version":"1.9.1"`, `"id":"r-1","counter":141,"version":"1.9.2"`, "rel.malformed", "its counter, 1.9.1"},
			{"unknown state of a rollout", `"state":"running"`, `"state":"going"`, "rel.malformed", "one of running paused halted done"},
			{"no groups", `"groups":[`, `"groups":[],"other":[`, "rel.malformed", "at least one group"},
			{"a group twice", `"name":"all"`, `"name":"some"`, "rel.malformed", "each group once"},
			{"percent falls", `"percent":100`, `"percent":5`, "rel.malformed", "more than the groups before, 10"},
			{"percent beyond 100", `"percent":100`, `"percent":101`, "rel.malformed", "percent"},
			{"a list and percent", `"first":"gw-1"`, `"percent":5`, "rel.malformed", "either gateways or percent"},
			{"neither list nor percent", `"gateways":["gw-1","gw-2"],`, ``, "rel.malformed", "a list of gateways"},
			{"a gateway twice", `"gw-2"`, `"gw-1"`, "rel.malformed", "each gateway once"},
			{"no gateway's id", `"gw-2"`, `"GW 2"`, "rel.malformed", "gateway's id"},
			{"first is no gateway's id", `"first":"gw-1"`, `"first":"../gw-1"`, "rel.malformed", "first"},
			{"unknown state of a group", `"state":"waiting"`, `"state":"asleep"`, "rel.malformed", "one of waiting first open done"},
			{"open_to beyond 100", `"open_to":50`, `"open_to":500`, "rel.malformed", "open_to"},
			{"error count negative", `"error_count":3`, `"error_count":-3`, "rel.malformed", "error_count"},
			{"soak of years", `"soak_s":3600`, `"soak_s":3600000000`, "rel.malformed", "soak_s"},
			{"no window", `22:00-05:00`, `22-5`, "rel.malformed", "window"},
			{"hour 24", `22:00-05:00`, `24:00-05:00`, "rel.malformed", "window"},
			{"id is a path", `"id":"r-1"`, `"id":"../r"`, "rel.malformed", "id"},
		},
		"order": {
			{"unknown schema", `"serial":9`, `"schema":2,"serial":9`, "rel.schema", "want 1"},
			{"serial zero", `"serial":9`, `"serial":0`, "rel.malformed", "serial"},
			{"no gateway", `"gateway":"gw-0017",`, ``, "rel.malformed", "gateway: missing"},
			{"gateway is a path", `gw-0017`, `..`, "rel.malformed", "gateway's id"},
			{"gateway too long", `gw-0017`, strings.Repeat("g", 65), "rel.malformed", "gateway's id"},
			{"a key twice in the home", `"cloud":"mqtt"`, `"cloud":"mqtt","cloud":"x"`, "rel.malformed", "each key once"},
			{"a key twice deep in the settings", `{"every":"10s"}`, `{"every":"10s","every":"1s"}`, "rel.malformed", "each key once"},
			{"home is no object", `{"cloud":"mqtt","Settings":{"A":null,"a":[1,2]}}`, `"mqtt"`, "rel.malformed", "home"},
			{"settings are null", `{"Boiler/Flow":{"every":"10s"}}`, `null`, "rel.malformed", "settings"},
			{"pin without counter", `"counter":141,`, ``, "rel.malformed", "counter"},
			{"release of no product", `"product":"gateway-v2",`, ``, "rel.malformed", "product"},
			{"product is a path", `gateway-v2`, `../../x`, "rel.malformed", "product"},
		},
		"enrolment": {
			{"no gateway's id", `gw-0017`, `Gw`, "rel.malformed", "gateway's id"},
			{"no recipient", `age1`, `age2`, "rel.malformed", "age_recipient"},
			{"a secret key", `age1`, `AGE-SECRET-KEY-1`, "rel.malformed", "age_recipient"},
			{"no key", hashA, hashA[2:], "rel.malformed", "ed25519"},
			{"no version", `1.9.1`, ``, "rel.malformed", "agent: missing"},
			{"hardware twice", `brcm,bcm2711`, `raspberrypi,4-model-b`, "rel.malformed", "each hardware once"},
		},
	} {
		for _, tt := range rows {
			t.Run(kind+"/"+tt.name, func(t *testing.T) {
				good := fill(kinds[kind].good)
				require.Contains(t, good, tt.old)
				_, err := kinds[kind].round([]byte(strings.Replace(good, tt.old, tt.new, 1)))
				require.Equal(t, tt.code, code(err), "%v", err)
				require.ErrorContains(t, err, tt.want)
				require.NotContains(t, err.Error(), "\x1b", "nothing of it reaches a terminal raw")
				require.Less(t, len(err.Error()), 600)
			})
		}
	}
}

// TestHostile: what is none of the files, for all of them.
func TestHostile(t *testing.T) {
	for name, kind := range kinds {
		good := fill(kind.good)
		for what, tt := range map[string]struct{ data, code string }{
			"empty":            {"", "rel.malformed"},
			"blanks":           {" \n\t", "rel.malformed"},
			"array":            {"[]", "rel.malformed"},
			"number":           {"1", "rel.malformed"},
			"null":             {"null", "rel.malformed"},
			"empty object":     {"{}", map[bool]string{true: "rel.schema", false: "rel.malformed"}[strings.Contains(good, `"schema"`)]},
			"too large":        {good + strings.Repeat(" ", MaxFile), "rel.size"},
			"deep arrays":      {`{"a":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + "}", "rel.malformed"},
			"deep objects":     {strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000), "rel.malformed"},
			"deep in home":     {`{"home":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + "}", "rel.malformed"},
			"deep, never ends": {strings.Repeat(`{"a":[`, 9_000), "rel.malformed"},
			"mark before":      {"\ufeff" + good, "rel.malformed"},
			"NaN":              {`{"schema":NaN}`, "rel.malformed"},
			"long key":         {`{"` + strings.Repeat("k", 60_000) + `":1}`, "rel.malformed"},
		} {
			_, err := kind.round([]byte(tt.data))
			require.Equal(t, tt.code, code(err), "%s: %s: %v", name, what, err)
			require.Less(t, len(err.Error()), 600)
		}
	}
	many := func(n int, each func(i int) string) string {
		var s []string
		for i := range n {
			s = append(s, each(i))
		}
		return strings.Join(s, ",")
	}
	_, err := ParseManifest([]byte(strings.Replace(fill(goodManifest), `"hw":[`, `"hw":[`+many(maxHardware, func(i int) string { return fmt.Sprintf(`"h%d"`, i) })+",", 1)))
	require.ErrorContains(t, err, "at most 128")
	_, err = ParseManifest([]byte(strings.Replace(fill(goodManifest), `"parts":[`, `"parts":[`+many(maxParts, func(i int) string { return fmt.Sprintf(`{"name":"p%d"}`, i) })+",", 1)))
	require.ErrorContains(t, err, "at most 16")
	_, err = ParseRollouts([]byte(`{"schema":1,"product":"p","serial":1,"releases":[` +
		many(maxReleases+1, func(i int) string {
			return fmt.Sprintf(`{"counter":%d,"version":"1","platforms":[],"state":"added"}`, i+1)
		}) + `]}`))
	require.ErrorContains(t, err, "at most 512")
}

// TestUnknownKeys: what a later release says besides is left aside.
func TestUnknownKeys(t *testing.T) {
	for name, kind := range kinds {
		want, err := kind.round([]byte(fill(kind.good)))
		require.NoError(t, err)
		got, err := kind.round([]byte(strings.Replace(fill(kind.good), "{", `{"later":{"x":[1,{"y":"z"}]},`, 1)))
		require.NoError(t, err, name)
		require.Equal(t, string(want), string(got))
	}
	// Also an encoding of a kind that came later: it is never chosen.
	m, err := ParseManifest([]byte(strings.Replace(fill(goodManifest), `"encodings":[{`, `"encodings":[{"enc":"better","sha256":"`+hashC+`","size":1},{`, 1)))
	require.NoError(t, err)
	var chosen []string
	for _, e := range m.Agent().Choices(func(sha string) bool { return sha == hashB }) {
		chosen = append(chosen, e.Enc)
	}
	require.Equal(t, []string{"bsdiff40", "zstd"}, chosen, "the cheapest first")
	require.Len(t, m.Agent().Choices(func(string) bool { return false }), 1, "no base, no patch")
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{
		"gw-0017": true, "a": true, "0.a_b-c": true, strings.Repeat("g", 64): true, "...": true, // harmless in a file's name
		"": false, ".": false, "..": false, "GW": false, "gw/1": false, "gw 1": false, "gw\x00": false, "gw\n": false, "ä": false, strings.Repeat("g", 65): false,
	} {
		require.Equal(t, want, IsGateway(s), "%q", s)
	}
	for s, want := range map[string]bool{
		"gateway-v2": true, "Kühlkette 2": true, "产品": true, "a.b": true, "acme, inc.": true, strings.Repeat("p", 64): true,
		"": false, ".": false, "..": false, ".hidden": false, "a/b": false, `a\b`: false, "a*": false, "a?": false, "a[b]": false, "a%2fb": false, "c:": false,
		"$SYS": false, " a": false, "a ": false, "a\tb": false, "a\u200bb": false, "a\u2028b": false, "\xff": false, "a+b": false, "a#": false, "{a,b}": false,
		strings.Repeat("p", 65): false, strings.Repeat("产", 43): false,
	} {
		require.Equal(t, want, IsName(s), "%q", s)
	}
	require.Equal(t, "releases/gateway-v2/linux-armv6/141.json", ManifestPath("gateway-v2", "linux-armv6", 141))
	require.Equal(t, "releases/gateway-v2/rollouts.json", RolloutsPath("gateway-v2"))
	require.Equal(t, "orders/gw-0017.json", OrderPath("gw-0017"))
	require.Equal(t, "dev/gw-0017/linux-arm64.json", DevPath("gw-0017", "linux-arm64"))
	require.Equal(t, "blobs/"+hashA, BlobPath(hashA))
	rapid.Check(t, func(t *rapid.T) { // a name that holds is one element of a path, whatever it is
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z./\\%*$ ]{1,8}`)).Draw(t, "name")
		for _, ok := range []bool{IsGateway(s), IsName(s), IsPlatform(s), isPart(s)} {
			if ok {
				require.Equal(t, s, filepath.Base(filepath.Clean("/x/"+s)))
				matched, err := filepath.Match(s, s)
				require.NoError(t, err)
				require.True(t, matched)
				other, err := filepath.Match(s, s+"x")
				require.NoError(t, err)
				require.False(t, other)
			}
		}
	})
}

func TestFor(t *testing.T) {
	m, err := ParseManifest([]byte(fill(goodManifest)))
	require.NoError(t, err)
	good := Gateway{Product: "gateway-v2", Platform: "linux-armv6", Hardware: []string{"brcm,bcm2835", "rpi-1"}, Floor: 141, Launcher: 2, Running: 100}
	require.NoError(t, m.For(good))
	for want, change := range map[string]func(*Gateway){
		"rel.wrong_product":  func(g *Gateway) { g.Product = "gateway-v3" },
		"rel.wrong_platform": func(g *Gateway) { g.Platform = "linux-arm64" },
		"rel.wrong_hw":       func(g *Gateway) { g.Hardware = []string{"rpi-4"} },
		"rel.floor":          func(g *Gateway) { g.Floor = 142 },
		"rel.launcher":       func(g *Gateway) { g.Launcher = 1 },
		"rel.stepping":       func(g *Gateway) { g.Running = 99 },
	} {
		g := good
		change(&g)
		require.Equal(t, want, code(m.For(g)))
	}
	m.HW = nil
	good.Hardware = nil
	require.NoError(t, m.For(good), "for any hardware")
}

// Files of this release are kept: later ones read them, too.
func TestKept(t *testing.T) {
	for name, kind := range kinds {
		path := filepath.Join("testdata", name+"-1.json")
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		got, err := kind.round(data)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(string(data)), string(got))
	}
}

func fuzz(f *testing.F, name string) {
	kind := kinds[name]
	f.Add([]byte(fill(kind.good)))
	f.Add([]byte(`{"schema":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := kind.round(data)
		if err != nil {
			require.Contains(t, []string{"rel.malformed", "rel.schema", "rel.size", "rel.backend"}, code(err), "%v", err)
			require.LessOrEqual(t, len(err.Error()), 2000)
			return
		}
		twice, err := kind.round(once)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

func FuzzManifest(f *testing.F)  { fuzz(f, "manifest") }
func FuzzRollouts(f *testing.F)  { fuzz(f, "rollouts") }
func FuzzOrder(f *testing.F)     { fuzz(f, "order") }
func FuzzEnrolment(f *testing.F) { fuzz(f, "enrolment") }
