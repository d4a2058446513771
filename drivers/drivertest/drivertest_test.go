package drivertest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"periph.io/x/conn/v3/physic"

	"homeward/drivers"
	"homeward/drivers/drivertest"
)

// part is an I2C chip: register 0 is its identity, 1 and 2 are its values.
type part struct {
	id      byte
	missing bool
}

func (p *part) String() string                  { return "part" }
func (p *part) SetSpeed(physic.Frequency) error { return nil }

func (p *part) Tx(_ uint16, w, r []byte) error {
	if p.missing {
		return errors.New("remote I/O error")
	}
	for i := range r {
		r[i] = []byte{p.id, 10, 20}[w[0]]
	}
	return nil
}

// gauge is the part's driver, with one flaw.
type gauge struct {
	flaw   string
	env    drivers.Env
	last   []drivers.Reading
	closed bool
}

func (g *gauge) Check() []drivers.Fault { return nil }
func (g *gauge) Bus() drivers.Bus       { return drivers.Bus{Kind: drivers.I2C, Name: "sim:part"} }

func (g *gauge) Channels() []drivers.Channel {
	unit := drivers.Unit("V")
	c := []drivers.Channel{{Name: "a", Unit: &unit}, {Name: "b", Unit: &unit}}
	if g.flaw == "unit missing" {
		c[1].Unit = nil
	}
	return c
}

func (g *gauge) Open(_ context.Context, env drivers.Env) (drivers.Sensor, error) {
	g.env = env
	if err := g.identify(); err != nil {
		if g.flaw == "half open" {
			return g, err
		}
		return nil, err
	}
	return g, nil
}

func (g *gauge) register(at byte) (byte, error) {
	var r [1]byte
	err := g.env.I2C.Tx(1, []byte{at}, r[:])
	if g.flaw == "bus error ignored" && at == 2 {
		err = nil
	}
	return r[0], err
}

func (g *gauge) identify() error {
	id, err := g.register(0)
	switch {
	case err != nil && g.flaw == "bus error taken for another instrument":
		return drivers.ErrWrong
	case err != nil:
		return err
	case id != 0x42 && g.flaw == "another instrument taken for a passing fault":
		return drivers.ErrCheck
	case id != 0x42:
		return drivers.ErrWrong
	}
	return nil
}

func (g *gauge) Read(ctx context.Context) (out []drivers.Reading, err error) {
	if err := ctx.Err(); err != nil && g.flaw != "context ignored" {
		return nil, err
	}
	if g.flaw != "identity not read again" {
		if err := g.identify(); err != nil {
			if g.flaw == "last value given again" {
				return g.last, err
			}
			return nil, err
		}
	}
	for i, name := range []string{"a", "b"} {
		v, err := g.register(byte(i + 1))
		if err != nil {
			return nil, err
		}
		out = append(out, drivers.Reading{Channel: name, Value: float64(v), Unit: "V"})
	}
	switch g.flaw {
	case "order":
		out[0], out[1] = out[1], out[0]
	case "channel missing":
		out = out[:1]
	case "not a number":
		out[0].Value = math.NaN()
	case "other unit":
		out[0].Unit = "A"
	}
	g.last = out
	return out, nil
}

func (g *gauge) Close() error {
	if g.closed && g.flaw == "closed twice" {
		return errors.New("already closed")
	}
	g.closed = true
	return nil
}

const flawEnv = "DRIVERTEST_FLAW"

// TestGauge passes without a flaw, and runs with one where TestSuiteFindsFlaws asks for it.
func TestGauge(t *testing.T) {
	flaw := os.Getenv(flawEnv)
	drivertest.Run(t, drivertest.Case{
		Options: func() drivers.Options { return &gauge{flaw: flaw} },
		Bench: func(*testing.T) *drivertest.Bench {
			p, s := &part{id: 0x42}, &drivertest.Steps{}
			return &drivertest.Bench{
				Steps: s, Env: drivers.Env{I2C: s.I2C(p), Timeout: time.Second},
				Unplug:   func() { p.missing = true },
				Plug:     func() { p.missing = false },
				Exchange: func() { p.id = 0x43 },
			}
		},
	})
}

// TestSuiteFindsFlaws: each flaw fails the part of the suite that is there for it.
func TestSuiteFindsFlaws(t *testing.T) {
	const (
		read    = "reads what is configured"
		step    = "each step that fails"
		pulled  = "pulled is an error"
		other   = "another instrument is refused"
		context = "a cancelled context"
	)
	for flaw, want := range map[string]string{
		"":                                       "",
		"unit missing":                           read,
		"order":                                  read,
		"channel missing":                        read,
		"not a number":                           read,
		"other unit":                             read,
		"closed twice":                           read,
		"half open":                              step,
		"bus error ignored":                      step,
		"bus error taken for another instrument": step,
		"last value given again":                 pulled,
		"identity not read again":                other,
		"another instrument taken for a passing fault": other,
		"context ignored": context,
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestGauge$", "-test.v")
		cmd.Env = append(os.Environ(), flawEnv+"="+flaw)
		out, err := cmd.CombinedOutput()
		if want == "" {
			require.NoError(t, err, "%s", out)
			continue
		}
		require.Error(t, err, "%s: not found", flaw)
		require.Contains(t, string(out), fmt.Sprintf("--- FAIL: TestGauge/%s", strings.ReplaceAll(want, " ", "_")), flaw)
		require.NotContains(t, string(out), "panic", flaw)
	}
}
