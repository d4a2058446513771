package packed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	goflag "flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"homeward/agent/pack"
	"homeward/drivers"
)

// nodeRunner decodes what its input's lines name, and writes one line for each payload: what it holds, to the bit, or
// why not.
const nodeRunner = `
const packed = require(process.argv[1]);
const f = new Float64Array(1), u = new Uint32Array(f.buffer);
const hex = v => { f[0] = v; return u[1].toString(16).padStart(8, '0') + u[0].toString(16).padStart(8, '0'); };
const gap = g => ' gap ' + JSON.stringify(g);
let nanos = 0n, count = 0, slowest = 0n;
const by = e => e instanceof Error && e.message.startsWith('packed: ') ? '' : 'NOT BY A CHECK: ';
const text = (payload, decode) => {
  try {
    const p = packed.peek(payload);
    let s = p.schema + ' ' + p.gateway + ' ' + p.epoch + ' ' + p.first + ' ' + p.polls + p.gaps.map(gap).join('');
    if (!decode) return s;
    const begin = process.hrtime.bigint();
    const d = decode(payload);
    const took = process.hrtime.bigint() - begin;
    nanos += took; count++;
    if (took > slowest) slowest = took;
    s += ' | ' + d.gateway + ' ' + d.epoch + ' ' + d.first + d.gaps.map(gap).join('');
    for (const r of d.readings) s += '|' + r.seq + ' ' + r.t + ' ' + r.n + ' ' + r.u + ' ' + hex(r.v) + ' ' + r.q;
    return s;
  } catch (e) {
    return 'refused: ' + by(e) + e.message;
  }
};
const out = [];
for (const line of require('fs').readFileSync(0, 'utf8').split('\n')) {
  if (!line) continue;
  const c = JSON.parse(line);
  let decode = null;
  if (c.schema !== undefined) {
    try {
      decode = packed.decoder(c.object ? JSON.parse(c.schema) : c.schema);
      out.push('schema taken');
    } catch (e) {
      out.push('schema refused: ' + by(e) + e.message);
    }
  }
  for (const b of c.payloads || []) {
    const bytes = new Uint8Array(Buffer.from(b, 'base64'));
    out.push(text(bytes, decode));
    if (c.text) out.push(text(Buffer.from(bytes).toString('latin1'), decode));
  }
}
process.stdout.write(out.map(s => s.replace(/\n/g, ' ') + '\n').join(''), () => {
  process.stderr.write(count ? count + ' payloads, ' + Number(nanos) / count / 1e6 + ' ms each, slowest ' + Number(slowest) / 1e6 + ' ms' : '');
});
`

// jsCase is one schema and payloads of it.
type jsCase struct {
	Schema   string   `json:"schema"`
	Object   bool     `json:"object"` // give the schema as an object
	Text     bool     `json:"text"`   // decode each payload as a string too
	Payloads [][]byte `json:"payloads"`
}

// node runs the decoder; what comes back are its lines.
func node(t *testing.T, script string, cases []jsCase) []string {
	t.Helper()
	program := nodeProgram(t)
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	e := json.NewEncoder(&in)
	for _, c := range cases {
		if err := e.Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-e", nodeRunner, path)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	t.Log("node:", errs.String())
	var lines []string
	r := bufio.NewReader(&out)
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return lines
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
}

func nodeProgram(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no node: apt install nodejs (scripts/test-deps)")
		}
		t.Skip("no node: apt install nodejs (scripts/test-deps)")
	}
	return program
}

// goText is the line that the decoder in Go stands for.
func goText(c *Coder, payload []byte) string {
	i, err := Peek(payload)
	if err != nil {
		return "refused: "
	}
	gaps := func(all []pack.Gap) (s string) {
		for _, g := range all {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			_ = e.Encode(g)
			s += " gap " + strings.TrimSpace(b.String())
		}
		return s
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %d %d %d%s", i.Schema, i.Gateway, i.Epoch, i.First, i.Polls, gaps(i.Gaps))
	if c == nil {
		return b.String()
	}
	p, err := c.Decode(payload)
	if err != nil {
		return "refused: "
	}
	fmt.Fprintf(&b, " | %s %d %d%s", p.Gateway, p.Epoch, p.First, gaps(p.Gaps))
	for _, r := range p.Readings {
		fmt.Fprintf(&b, "|%d %d %s %s %016x %s", r.Seq, r.TimeMS, r.Channel, r.Unit, math.Float64bits(r.Value), r.Quality)
	}
	return b.String()
}

// agree compares both decoders over all cases; it returns how many payloads were taken and how many refused.
func agree(t *testing.T, script string, cases []jsCase) (taken, refused int) {
	t.Helper()
	lines := node(t, script, cases)
	next := func() string {
		if len(lines) == 0 {
			t.Fatal("node said too little")
		}
		l := lines[0]
		lines = lines[1:]
		return l
	}
	bad := 0
	for i, k := range cases {
		var c *Coder
		s, err := ParseSchema([]byte(k.Schema))
		if err == nil {
			c, err = New(s)
		}
		got := next()
		if (err == nil) != (got == "schema taken") || strings.Contains(got, "NOT BY A CHECK") {
			t.Errorf("case %d: node: %s, go: %v; %s", i, got, err, k.Schema)
			if bad++; bad > 10 {
				t.FailNow()
			}
		}
		for j, p := range k.Payloads {
			want := goText(c, p)
			if strings.HasPrefix(want, "refused: ") {
				refused++
			} else {
				taken++
			}
			for _, as := range []string{"bytes", "text"} {
				if as == "text" && !k.Text {
					break
				}
				got := next()
				if want == "refused: " && strings.HasPrefix(got, want) && !strings.HasPrefix(got, "refused: NOT") || got == want {
					continue
				}
				at := 0
				for at < len(got) && at < len(want) && got[at] == want[at] {
					at++
				}
				from := max(0, at-60)
				t.Errorf("case %d payload %d as %s differ at %d of %d, %d:\nnode … %.200s\ngo   … %.200s", i, j, as, at, len(got), len(want), got[from:], want[from:])
				if bad++; bad > 10 {
					t.FailNow()
				}
			}
		}
	}
	return taken, refused
}

// walk makes values of one channel, as some instrument would.
type walk struct {
	kind string
	r    *rand.Rand
	x    float64
	c    Channel
}

func (w *walk) next() float64 {
	r := w.r
	switch w.kind {
	case "slow": // 1/16 °C, two decimals
		w.x += r.NormFloat64() * 0.02
		return math.Floor(math.Round(20*16+w.x*16)/16*100+0.5) / 100
	case "fast":
		w.x = w.x*0.9 + r.NormFloat64()*30
		return math.Round(w.x) / 10
	case "noisy":
		return 1000 + r.NormFloat64()*17.123456789
	case "float32":
		w.x += r.NormFloat64()
		return float64(float32(230 + w.x))
	case "float32 rounded":
		w.x += r.NormFloat64()
		return float64(float32(math.Round(w.x*10) / 10))
	case "counter":
		w.x += float64(r.IntN(4))
		return 123456 + w.x
	case "on-off":
		if r.IntN(40) == 0 {
			w.x = 1 - w.x
		}
		return w.x
	case "ulp": // a decimal with float noise: corrections
		w.x += float64(r.IntN(5) - 2)
		return fromOrder(order(w.x/10) + int64(r.IntN(7)-3))
	case "rare": // now and then off the lattice: escapes
		w.x += float64(r.IntN(3) - 1)
		switch r.IntN(12) {
		case 0:
			return w.x/10 + 0.0123
		case 1:
			return math.Pi * math.Pow(10, float64(r.IntN(40)-20))
		case 2:
			return 1e9
		}
		return w.x / 10
	case "extreme":
		return []float64{0, 5e-324, -5e-324, math.MaxFloat64, -math.MaxFloat64, 1 << 53, -1 << 44, 1e15, -1e-7, 0.1, 2.5e-308, 1 << 44}[r.IntN(12)]
	case "lattice": // what the schema says, with corrections about
		w.x += math.Round(r.NormFloat64() * 3)
		v := w.c.value(int64(w.x)+w.c.Mean, int64(r.IntN(9)/8*(r.IntN(201)-100)))
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0
		}
		return v
	}
	panic(w.kind)
}

var walks = []string{"slow", "fast", "noisy", "float32", "float32 rounded", "counter", "on-off", "ulp", "rare", "extreme", "lattice"}

// site draws a schema, and polls of it.
type site struct {
	schema Schema
	polls  []pack.Poll
	gaps   []pack.Gap
	radix  Radix
	limit  int
	named  bool
	epoch  uint32
	split  int // of the polls: before, they teach
	primes int
	trains bool
}

func drawChannel(t *rapid.T) (c Channel) {
	c.Unit = rapid.SampledFrom([]string{"", "Cel", "V", "%RH", "m³/h"}).Draw(t, "unit")
	dec := rapid.IntRange(0, 15).Draw(t, "dec")
	switch rapid.IntRange(0, 6).Draw(t, "lattice") {
	case 0, 1:
		c.Div = pow10[rapid.IntRange(0, 6).Draw(t, "div")]
	case 2:
		c.Step = rapid.SampledFrom([]float64{0.0625, 1.0 / 3, 0.51444, 100.0 / 255, 1e-9, 12345.678}).Draw(t, "step")
		c.Off = rapid.SampledFrom([]float64{0, -40, 0.7, 1e6, -1e-7}).Draw(t, "off")
	case 3:
		c.Step, c.Dec = rapid.SampledFrom([]float64{6.25, 100.0 / 255, 51.444, 3, 1000}).Draw(t, "step"), &dec
		c.Off = rapid.SampledFrom([]float64{0, -4000, 0.5, 3}).Draw(t, "off")
	case 4:
		c.Div, c.Float32 = pow10[rapid.IntRange(0, 6).Draw(t, "div")], true
	case 5:
		c.Div, c.Float32, c.Dec = rapid.SampledFrom([]float64{1, 10, 3, 1000}).Draw(t, "div"), true, &dec
	case 6:
		c.Bits = true
	}
	c.Linear = rapid.IntRange(0, 3).Draw(t, "linear") == 0
	c.Level, c.Fixed = rapid.IntRange(0, 3).Draw(t, "level") == 0, rapid.IntRange(0, 3).Draw(t, "fixed") == 0
	c.Spread = rapid.SampledFrom([]int{0, 0, 5, 12, maxSpread}).Draw(t, "spread")
	c.Slots = rapid.SampledFrom([]int{0, 0, minSlots, 7, maxSlots}).Draw(t, "slots")
	c.Mean = rapid.SampledFrom([]int64{0, 0, 200, -12345, 1 << 40, -maxIndex}).Draw(t, "mean")
	return c
}

var drawSite = rapid.Custom(func(t *rapid.T) site {
	s := site{schema: Schema{ID: rapid.SampledFrom([]uint32{1, 2, 77, 1<<32 - 1}).Draw(t, "id")}}
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	var all []walk
	for g := range rapid.IntRange(1, 4).Draw(t, "groups") {
		gr := Group{Res: rapid.SampledFrom([]int64{1, 1, 10, 100, 1000, 60000}).Draw(t, "res")}
		gr.Every = rapid.Int64Range(1, 50).Draw(t, "every")
		gr.Pull = rapid.IntRange(0, pulls-1).Draw(t, "pull")
		gr.Slots = rapid.SampledFrom([]int{0, minSlots, 8, maxSlots}).Draw(t, "slots")
		for i := range rapid.IntRange(1, 7).Draw(t, "channels") {
			c := drawChannel(t)
			c.Name = fmt.Sprintf("s%d/ch %d é", g, i)
			if i > 0 && rapid.Bool().Draw(t, "child") {
				c.Parent = 1 + gr.Channels[rapid.IntRange(0, i-1).Draw(t, "parent")]
			}
			gr.Channels = append(gr.Channels, len(s.schema.Channels))
			s.schema.Channels = append(s.schema.Channels, c)
			all = append(all, walk{kind: rapid.SampledFrom(walks).Draw(t, "walk"), r: r, c: c})
		}
		s.schema.Groups = append(s.schema.Groups, gr)
	}
	s.radix = rapid.SampledFrom([]Radix{Text, Safe, Binary}).Draw(t, "radix")
	s.limit = rapid.SampledFrom([]int{622, 864, 1024, 1024, 16384}).Draw(t, "limit")
	s.epoch = rapid.SampledFrom([]uint32{0, 1, 1<<31 - 1, 1 << 31, 0xdeadbeef, 1<<32 - 1}).Draw(t, "epoch")
	s.named = rapid.Bool().Draw(t, "named")
	s.primes = rapid.IntRange(0, 3).Draw(t, "primers")
	s.trains = rapid.IntRange(0, 3).Draw(t, "trains") == 0
	late, missing, odd := r.IntN(2)*r.IntN(10), r.IntN(2)*r.IntN(10), r.IntN(2)*r.IntN(10)
	now := make([]int64, len(s.schema.Groups))
	for g := range now {
		now[g] = 1_700_000_000_000 + int64(r.IntN(5000))
	}
	if r.IntN(4) == 0 {
		now[0] = int64(r.IntN(3)-1) * 3_000_000_000_000
	}
	for range 200 + r.IntN(600) {
		g := 0
		for i := range now {
			if now[i] < now[g] {
				g = i
			}
		}
		gr := s.schema.Groups[g]
		p := pack.Poll{Time: now[g]}
		for _, at := range gr.Channels {
			v := all[at].next()
			if r.IntN(100) < missing && len(gr.Channels) > 1 && at != gr.Channels[0] {
				continue
			}
			c := &s.schema.Channels[at]
			rd := drivers.Reading{Channel: c.Name, Unit: drivers.Unit(c.Unit), Value: v}
			if r.IntN(100) < odd {
				rd.Quality = drivers.Quality(r.IntN(4))
			}
			p.Readings = append(p.Readings, rd)
		}
		s.polls = append(s.polls, p)
		now[g] += gr.Every * gr.Res
		if r.IntN(100) < late {
			now[g] += int64(r.IntN(int(min(3*gr.Every*gr.Res, 1<<30)))) - gr.Res
		}
		if r.IntN(200) == 0 {
			now[g] += int64(r.IntN(1 << 30)) // an outage
		}
		if r.IntN(400) == 0 {
			now[g] -= int64(r.IntN(1 << 25)) // the clock was set back
		}
	}
	s.split = len(s.polls) / 3
	for i := range r.IntN(3) * r.IntN(4) {
		from, to := uint64(i)*10+1, uint64(i)*10+1+uint64(r.IntN(1<<20))
		gap := pack.Gap{N: to - from + 1, TFrom: 1_700_000_000_000, TTo: int64(r.Int64N(1 << 40)), Reason: "evicted", MaybeDelivered: i == 1}
		if i != 2 {
			gap.From, gap.To = &from, &to
		}
		s.gaps = append(s.gaps, gap)
	}
	return s
})

// pack encodes polls into payloads, the first of them with the gaps.
func (s *site) pack(t testing.TB, c *Coder, polls []pack.Poll, radix Radix, limit int, gaps bool) (payloads [][]byte) {
	t.Helper()
	first := uint64(1 << 40)
	for len(polls) > 0 {
		w := c.NewWriter(pack.Header{Gateway: "gw-é \"1\"", Epoch: s.epoch, First: first}, radix, s.named, limit)
		if gaps && len(payloads) == 0 {
			for _, g := range s.gaps {
				w.AddGap(g)
			}
		}
		for _, p := range polls {
			if !w.Add(p) {
				break
			}
		}
		b, n := w.Close()
		if n == 0 || len(b) > limit {
			t.Fatalf("%d readings in %d bytes of %d", n, len(b), limit)
		}
		payloads = append(payloads, b)
		first += uint64(n)
		for n > 0 && n >= len(polls[0].Readings) {
			n -= len(polls[0].Readings)
			polls = polls[1:]
		}
		if n > 0 { // a part
			polls = polls[1:]
		}
	}
	return payloads
}

// build makes a site's coder and payloads.
func (s *site) build(t testing.TB) jsCase {
	t.Helper()
	c, err := New(&s.schema)
	if err != nil {
		t.Fatal(err)
	}
	if s.trains {
		var sets []Set
		for _, g := range s.schema.Groups {
			set := Set{Every: g.Every * g.Res, Res: g.Res}
			for _, at := range g.Channels {
				ch := s.schema.Channels[at]
				set.Channels = append(set.Channels, Hint{Name: ch.Name, Unit: ch.Unit})
			}
			sets = append(sets, set)
		}
		if c, err = Train(s.schema.ID, sets, s.polls[:s.split], s.primes); err != nil {
			t.Fatal(err)
		}
	} else if s.primes > 0 {
		for rest := s.polls[:s.split]; len(s.schema.Primers) < s.primes && len(rest) > 0; {
			var p []byte
			if p, rest = c.one(rest, 700); p == nil {
				t.Fatal("a primer has room for no reading")
			}
			s.schema.Primers = append(s.schema.Primers, string(p))
			if c, err = New(&s.schema); err != nil { // the next one is coded with what this one taught
				t.Fatal(err)
			}
		}
	}
	text, err := json.Marshal(c.Schema())
	if err != nil {
		t.Fatal(err)
	}
	return jsCase{Schema: string(text), Object: s.limit == 864, Text: s.radix != Binary, Payloads: s.pack(t, c, s.polls[s.split:], s.radix, s.limit, true)}
}

// scripts are what must agree with Go: what is read, and what is shipped.
var scripts = []string{"packed.js", "packed.min.js"}

// TestJSAgrees: whatever Go encodes, JavaScript decodes to the same bits.
func TestJSAgrees(t *testing.T) {
	nodeProgram(t)
	n := 30
	if testing.Short() {
		n = 12
	}
	var cases []jsCase
	readings := 0
	for seed := range n {
		s := drawSite.Example(seed)
		cases = append(cases, s.build(t))
		for _, p := range s.polls[s.split:] {
			readings += len(p.Readings)
		}
	}
	for _, script := range scripts {
		taken, refused := agree(t, script, cases)
		t.Logf("%s: %d schemas, %d payloads, %d readings", script, n, taken, readings)
		if refused > 0 || taken < n {
			t.Fatalf("%s: %d payloads taken, %d refused", script, taken, refused)
		}
	}
}

// digitsOf and seal take a payload apart and put it together again, with a check that holds.
func digitsOf(payload []byte) (digits []byte, radix Radix) {
	radix = Text
	switch payload[0] {
	case 1, 2:
		return bytes.Clone(payload), Binary
	case letters85[3], letters85[4]:
		radix = Safe
	}
	for _, l := range payload {
		digits = append(digits, byte(strings.IndexByte(radix.letters(), l)))
	}
	return digits, radix
}

func seal(digits []byte, radix Radix) []byte {
	check := checkDigits(digits, radix)
	digits[1], digits[2] = byte(check/int(radix)), byte(check%int(radix))
	if radix != Binary {
		for i := range digits {
			digits[i] = radix.letters()[digits[i]]
		}
	}
	return digits
}

// TestJSRefusesAlike: of payloads that were changed, with and without a check that holds, both decoders take and refuse
// the same, and take the same out of them.
func TestJSRefusesAlike(t *testing.T) {
	nodeProgram(t)
	n := 20
	if testing.Short() {
		n = 6
	}
	var cases []jsCase
	for seed := range n {
		s := drawSite.Example(1000 + seed)
		k := s.build(t)
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		var bad [][]byte
		for range 40 {
			d, radix := digitsOf(k.Payloads[r.IntN(len(k.Payloads))])
			switch r.IntN(8) {
			case 0: // cut
				d = d[:6+r.IntN(len(d)-6)]
			case 1: // longer
				for range 1 + r.IntN(40) {
					d = append(d, byte(r.IntN(int(radix))))
				}
			case 2: // another header
				for i := range min(len(d)-5, 30) {
					d[5+i] = byte(r.IntN(int(radix)))
				}
			case 3: // more polls
				d[3], d[4] = byte(r.IntN(int(radix))), byte(r.IntN(int(radix)))
			case 4: // nothing but zeros, or the last digit
				for i := 5 + r.IntN(len(d)-5); i < len(d); i++ {
					d[i] = byte(r.IntN(2) * int(radix-1))
				}
			case 5: // somewhere past the header
				for i := range d[min(25, len(d)-1):] {
					if r.IntN(100) == 0 {
						d[25+i] = byte(r.IntN(int(radix)))
					}
				}
			case 6:
				d[5+r.IntN(len(d)-5)] = byte(r.IntN(int(radix)))
			case 7: // three digits of count
				d[0] ^= 3
			}
			sealed := seal(bytes.Clone(d), radix)
			if r.IntN(10) == 0 { // and a check that does not hold
				sealed[r.IntN(len(sealed))] ^= byte(1 << r.IntN(8))
			}
			bad = append(bad, sealed)
		}
		k.Payloads = bad
		cases = append(cases, k)
	}
	cases = append(cases, jsCase{Schema: cases[0].Schema, Payloads: [][]byte{{}, {1}, []byte("{}"), []byte("!!!!!!"), bytes.Repeat([]byte{1}, 1<<20+1)}})
	for _, script := range scripts {
		taken, refused := agree(t, script, cases)
		t.Logf("%s: %d taken, %d refused", script, taken, refused)
		if taken < n || refused < 5*n {
			t.Fatalf("%s: %d payloads taken, %d refused: the changes are too weak or too strong", script, taken, refused)
		}
	}
}

// example is the block of docs/consuming.md that begins with head.
func example(t *testing.T, head string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../../docs/consuming.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := bytes.Cut(text, []byte("\n```js\n"+head))
	if !ok {
		t.Fatalf("docs/consuming.md has no block that begins with %s", head)
	}
	code, _, _ = bytes.Cut(code, []byte("\n```"))
	return append([]byte(head), code...)
}

// TestJSExampleNode: the script of docs/consuming.md prints every reading, those too that came before their schema, and those
// of rows, and passes over what is damaged, in every encoding and over restarts.
func TestJSExampleNode(t *testing.T) {
	for _, radix := range []Radix{Text, Safe, Binary} {
		t.Run(fmt.Sprint(radix), func(t *testing.T) { exampleNode(t, radix) })
	}
}

func exampleNode(t *testing.T, radix Radix) {
	program := nodeProgram(t)
	s := drawSite.Example(5)
	s.radix, s.limit, s.primes, s.trains, s.epoch = radix, 1024, 1, false, 7
	s.schema.Epoch, s.schema.Primers = 7, nil
	k := s.build(t)
	schema, err := ParseSchema([]byte(k.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(schema)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	small, err := os.ReadFile("packed.min.js")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"packed.min.js": small, "receiver.js": example(t, "// receiver.js"), "readings.js": example(t, "// readings.js")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs, want bytes.Buffer
	run := func(in *bytes.Buffer) {
		cmd := exec.Command(program, "readings.js")
		cmd.Dir = dir
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, errs.String())
		}
	}
	expect := func(d pack.Payload) {
		for _, r := range d.Readings {
			fmt.Fprintf(&want, "gw 7 %d %d %s %x %s\n", r.Seq, r.TimeMS, r.Channel, math.Float64bits(r.Value), r.Quality)
		}
		for _, g := range d.Gaps {
			fmt.Fprintf(&want, "gap %d %s\n", g.N, g.Reason)
		}
	}
	in := new(bytes.Buffer)
	line := func(topic string, message []byte) { fmt.Fprintf(in, "homeward/o p/p/gw/%s %x\n", topic, message) }
	for i, p := range k.Payloads {
		if i == len(k.Payloads)/2 {
			run(in) // what waits is kept
			in = new(bytes.Buffer)
			line(fmt.Sprintf("schema/%d", schema.ID), []byte(k.Schema))
		}
		line("readings", p)
		d, err := c.Decode(p)
		if err != nil {
			t.Fatal(err)
		}
		expect(d)
	}
	line("readings", []byte("!damaged"))
	line("status", []byte(`{"online":true}`))
	rows := pack.NewRows(pack.Header{Gateway: "gw", Epoch: 7, First: 5}, 1024)
	rows.Add(pack.Poll{Time: 5, Readings: []drivers.Reading{{Channel: "a/x", Value: 1.5}, {Channel: "a/y", Value: 2, Quality: drivers.Suspect}}})
	rows.Add(pack.Poll{Time: 9, Readings: []drivers.Reading{{Channel: "a/y", Value: 3}}})
	rows.AddGap(pack.Gap{N: 3, Reason: "evicted"})
	line("alarms", rows.Bytes())
	d, err := pack.Decode(rows.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	expect(d)
	run(in)
	if n := strings.Count(errs.String(), "packed: "); n != 1 {
		t.Errorf("want one complaint, of the damaged payload: %q", errs.String())
	}
	var got bytes.Buffer
	for l := range strings.Lines(out.String()) {
		var r struct {
			Gateway string
			Epoch   uint32
			Seq     uint64
			T       int64 `json:"t_ms"`
			Channel string
			Value   float64
			Quality string
			Gap     *pack.Gap
		}
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		if r.Gap != nil {
			fmt.Fprintf(&got, "gap %d %s\n", r.Gap.N, r.Gap.Reason)
			continue
		}
		fmt.Fprintf(&got, "%s %d %d %d %s %x %s\n", r.Gateway, r.Epoch, r.Seq, r.T, r.Channel, math.Float64bits(r.Value), r.Quality)
	}
	if got.String() != want.String() || want.Len() == 0 {
		t.Fatalf("the script printed %d bytes of readings that differ from the %d wanted: %.300s", got.Len(), want.Len(), got.String())
	}
}

// TestJSPasted: the decoder works where there is neither module nor require nor anything else of Node's, as
// docs/consuming.md has it.
func TestJSPasted(t *testing.T) {
	program := nodeProgram(t)
	code := string(example(t, "payload.working = "))
	small, err := os.ReadFile("packed.min.js")
	if err != nil {
		t.Fatal(err)
	}
	s := drawSite.Example(6)
	s.radix, s.limit = Safe, 622
	k := s.build(t)
	schema, err := ParseSchema([]byte(k.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(schema)
	if err != nil {
		t.Fatal(err)
	}
	want, err := c.Decode(k.Payloads[0])
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(map[string]any{"code": string(small) + "\n" + code, "payload": map[string]any{"data": string(k.Payloads[0]), "working": map[string]any{"schema": k.Schema}}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-e", `
const { code, payload } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
require('vm').runInNewContext('(function (payload) {' + code + '})(payload)', { payload });
console.log(payload.working.decoded.readings.length, payload.working.decoded.first);`)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != fmt.Sprint(len(want.Readings), want.First) {
		t.Fatalf("%s: want %d %d", got, len(want.Readings), want.First)
	}
}

// TestJSSchemas: both decoders take and refuse the same schemas.
func TestJSSchemas(t *testing.T) {
	nodeProgram(t)
	const group = `"gr":[{"ch":[0],"res":1,"per":1}]`
	channel := func(s string) string { return `{"id":1,"ch":[{"n":"a",` + s + `}],` + group + `}` }
	texts := []string{
		``, `null`, `[]`, `1`, `{}`, `{"id":1}`, `{"id":1`, `{"id":1,"ch":[],"gr":[]}`,
		channel(`"div":1`), channel(`"div":-1`), channel(`"div":0`), channel(`"div":"1"`), channel(`"div":1e300`), channel(`"div":1e299`), channel(`"div":1e400`), channel(`"div":1,"step":1`),
		channel(`"step":0.1,"off":-5.5`), channel(`"step":0.1,"dec":2`), channel(`"div":10,"dec":2`), channel(`"div":10,"dec":2,"f32":true`), channel(`"step":1,"dec":15`), channel(`"step":1,"dec":16`),
		channel(`"step":1,"dec":-1`), channel(`"step":1,"dec":1.5`), channel(`"step":1,"dec":null`), channel(`"bits":true`), channel(`"bits":1`), channel(`"bits":true,"div":-3`), channel(`"bits":true,"dec":3`),
		channel(`"div":1,"u":"Cel"`), channel(`"div":1,"u":3`), channel(`"div":1,"u":null`), channel(`"div":1,"mean":17592186044416`), channel(`"div":1,"mean":17592186044417`), channel(`"div":1,"mean":0.5`),
		channel(`"div":1,"mean":-17592186044416`), channel(`"div":1,"par":1`), channel(`"div":1,"par":-1`), channel(`"div":1,"par":2`), channel(`"div":1,"lin":true`), channel(`"div":1,"lin":"yes"`),
		channel(`"div":1,"other":[1,{"x":2}]`), channel(`"step":5e-324`), channel(`"step":1e-310,"off":1e299`),
		`{"id":0,"ch":[{"n":"a","div":1}],` + group + `}`, `{"id":4294967295,"ch":[{"n":"a","div":1}],` + group + `}`, `{"id":4294967296,"ch":[{"n":"a","div":1}],` + group + `}`,
		`{"id":-1,"ch":[{"n":"a","div":1}],` + group + `}`, `{"id":1.5,"ch":[{"n":"a","div":1}],` + group + `}`, `{"id":"1","ch":[{"n":"a","div":1}],` + group + `}`,
		`{"id":1,"gw":"g","e":4294967295,"ch":[{"n":"a","div":1}],` + group + `}`, `{"id":1,"gw":5,"ch":[{"n":"a","div":1}],` + group + `}`, `{"id":1,"e":4294967296,"ch":[{"n":"a","div":1}],` + group + `}`,
		`{"id":1,"ch":[{"n":"","div":1}],` + group + `}`, `{"id":1,"ch":[{"div":1}],` + group + `}`, `{"id":1,"ch":[null],` + group + `}`, `{"id":1,"ch":{"n":"a"},` + group + `}`,
		`{"id":1,"ch":[{"n":"a","div":1},{"n":"a","div":1}],"gr":[{"ch":[0,1],"res":1,"per":1}]}`,
		`{"id":1,"ch":[{"n":"a","div":1},{"n":"b","div":1}],"gr":[{"ch":[0],"res":1,"per":1}]}`,
		`{"id":1,"ch":[{"n":"a","div":1},{"n":"b","div":1,"par":1}],"gr":[{"ch":[0,1],"res":1,"per":1}]}`,
		`{"id":1,"ch":[{"n":"a","div":1},{"n":"b","div":1,"par":1}],"gr":[{"ch":[1,0],"res":1,"per":1}]}`,
		`{"id":1,"ch":[{"n":"a","div":1},{"n":"b","div":1,"par":1}],"gr":[{"ch":[0],"res":1,"per":1},{"ch":[1],"res":1,"per":1}]}`,
		`{"id":1,"ch":[{"n":"a","div":1},{"n":"b","div":1}],"gr":[{"ch":[0,0],"res":1,"per":1},{"ch":[1],"res":1,"per":1}]}`,
	}
	for _, g := range []string{`[]`, `null`, `[null]`, `[{"ch":[],"res":1,"per":1}]`, `[{"ch":[1],"res":1,"per":1}]`, `[{"ch":[-1],"res":1,"per":1}]`, `[{"ch":[0.5],"res":1,"per":1}]`, `[{"ch":["0"],"res":1,"per":1}]`,
		`[{"ch":[0],"res":0,"per":1}]`, `[{"ch":[0],"res":4294967296,"per":1}]`, `[{"ch":[0],"res":4294967296,"per":2}]`, `[{"ch":[0],"res":4294967297,"per":1}]`, `[{"ch":[0],"res":3,"per":1431655765}]`,
		`[{"ch":[0],"res":3,"per":1431655766}]`, `[{"ch":[0],"res":1,"per":0}]`, `[{"ch":[0],"res":1}]`, `[{"ch":[0],"res":-1,"per":-1}]`, `[{"ch":[0],"res":1,"per":4294967296}]`, `[{"ch":[0],"res":1,"per":4294967297}]`} {
		texts = append(texts, `{"id":1,"ch":[{"n":"a","div":1}],"gr":`+g+`}`)
	}
	for _, p := range []string{`[]`, `null`, `["x"]`, `[1]`, `"x"`, `["!!!!!!!!!!"]`, `["","","","","","","","",""]`} {
		texts = append(texts, `{"id":1,"ch":[{"n":"a","div":1}],`+group+`,"primer":`+p+`}`)
	}
	var cases []jsCase
	for _, s := range texts {
		cases = append(cases, jsCase{Schema: s})
	}
	// What Go writes, and the same with another number, bracket or key somewhere.
	for seed := range 20 {
		s := drawSite.Example(2000 + seed)
		k := s.build(t)
		cases = append(cases, jsCase{Schema: k.Schema})
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		for range 20 {
			before, after, _ := strings.Cut(k.Schema, `,"primer"`)
			b := []byte(before)
			at := r.IntN(len(b))
			if b[at] < '0' || b[at] > '9' {
				continue
			}
			b[at] = byte('0' + r.IntN(10))
			if after != "" {
				b = append(append(b, `,"primer"`...), after...)
			}
			cases = append(cases, jsCase{Schema: string(b)})
		}
	}
	agree(t, scripts[1], cases)
}

// TestJSNothing: a workflow whose field is not there hands over null or undefined, as schema or as payload.
func TestJSNothing(t *testing.T) {
	program := nodeProgram(t)
	for _, script := range scripts {
		path, err := filepath.Abs(script)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, "-e", `
const packed = require(process.argv[1]);
const decode = packed.decoder({ id: 1, ch: [{ n: 'a', div: 1 }], gr: [{ ch: [0], res: 1, per: 1 }] });
for (const v of [undefined, null, 0, 5, true, NaN, {}, [], [null], () => 1]) {
  for (const f of [packed.peek, decode, packed.decoder]) {
    try {
      f(v);
      console.log('taken:', v);
    } catch (e) {
      if (!(e instanceof Error && e.message.startsWith('packed: '))) console.log(v, e);
    }
  }
}`, path).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
}

var writeVectors = goflag.Bool("vectors", false, "write testdata/vectors.json, if it is not there")

// vector is a schema with payloads, and what each decodes to, as [goText] puts it.
type vector struct {
	jsCase
	Want []string `json:"want"`
}

// TestVectors: what was once written is read the same by every later version, in Go and in JavaScript. New vectors go
// into another file: this one never changes.
func TestVectors(t *testing.T) {
	const path = "testdata/vectors.json"
	if _, err := os.Stat(path); *writeVectors && errors.Is(err, os.ErrNotExist) {
		var all []vector
		for seed := range 12 {
			s := drawSite.Example(4000 + seed)
			s.limit = 350
			v := vector{jsCase: s.build(t)}
			v.Payloads = v.Payloads[:min(2, len(v.Payloads))]
			schema, err := ParseSchema([]byte(v.Schema))
			if err != nil {
				t.Fatal(err)
			}
			c, err := New(schema)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range v.Payloads {
				v.Want = append(v.Want, goText(c, p))
			}
			all = append(all, v)
		}
		text, err := json.MarshalIndent(all, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	var cases []jsCase
	n := 0
	for i, v := range all {
		schema, err := ParseSchema([]byte(v.Schema))
		if err != nil {
			t.Fatal(i, err)
		}
		c, err := New(schema)
		if err != nil {
			t.Fatal(i, err)
		}
		for j, p := range v.Payloads {
			if got := goText(c, p); got != v.Want[j] {
				t.Errorf("vector %d payload %d: %.300s: want %.300s", i, j, got, v.Want[j])
			}
			n++
		}
		cases = append(cases, v.jsCase)
	}
	if n < 20 {
		t.Fatalf("%d payloads: the vectors are missing", n)
	}
	for _, script := range scripts {
		if taken, refused := agree(t, script, cases); taken != n || refused != 0 {
			t.Fatalf("%s: %d taken, %d refused", script, taken, refused)
		}
	}
}
