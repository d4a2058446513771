package cli

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// start is the time of the first reading of rows; second is that many seconds later.
var start = time.UnixMilli(1700000000000)

func second(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }

// rows is a payload of one channel: values in a row, from sequence number first on, value v of the second v-1.
func rows(epoch, first int, channel string, values ...float64) []byte {
	s := ""
	for i, v := range values {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf("[%d,%g]", 1000*(int(v)-1), v)
	}
	return fmt.Appendf(nil, `{"gw":"g","e":%d,"s":%d,"n":%d,"t":1700000000000,"g":[{"c":[%q],"u":[""],"r":[%s]}]}`, epoch, first, len(values), channel, s)
}

func TestVerify(t *testing.T) {
	const counter = "boiler/polls"
	// boiler sets what the gateway says of its polls.
	boiler := func(made, failed, readings uint64) func(*claims) {
		return func(c *claims) { c.sensors["boiler"] = polls{made, failed, readings} }
	}
	for _, c := range []struct {
		name     string
		payloads [][]byte
		claims   func(*claims)
		want     string // "": all is well
	}{
		{"all", [][]byte{rows(7, 1, counter, 1, 2, 3, 4)}, nil, ""},
		{"a poll before the first one, and one after the last one", [][]byte{rows(7, 1, counter, 2, 3, 4, 5)}, nil, ""},
		{"overtaken and repeated", [][]byte{rows(7, 3, counter, 3, 4), rows(7, 1, counter, 1, 2), rows(7, 3, counter, 3, 4), rows(7, 1, counter, 1, 2)}, nil, ""},
		{"a number is missing", [][]byte{rows(7, 1, counter, 1), rows(7, 3, counter, 3, 4)}, nil, "numbers 1 to 1 without a hole, and 2 beyond a hole"},
		{"the end is missing", [][]byte{rows(7, 1, counter, 1, 2, 3)}, nil, "recorded 4 readings; the broker got numbers 1 to 3"},
		{"more than was recorded", [][]byte{rows(7, 1, counter, 1, 2, 3, 4, 5)}, nil, "recorded 4 readings; the broker got numbers 1 to 5"},
		{"a value was skipped", [][]byte{rows(7, 1, counter, 1, 2, 4, 5)}, boiler(5, 0, 4), "boiler/polls: the gateway made 5 good polls, 4 readings were delivered"},
		{"a poll failed, and was counted", [][]byte{rows(7, 1, counter, 1, 2, 4, 5)}, boiler(5, 1, 4), ""},
		{"read by homeward check", [][]byte{rows(7, 1, counter, 1, 2, 4, 5)}, nil, ""},
		{"changed", [][]byte{rows(7, 1, counter, 1, 2.001, 3, 4)}, nil, "reading 2 of boiler/polls is 2.001: no value that was served"},
		{"twice under two numbers", [][]byte{rows(7, 1, counter, 1, 2, 2, 3)}, nil, "reading 3 of boiler/polls is 2: no value that was served"},
		{"stamped when it was sent", [][]byte{[]byte(`{"gw":"g","e":7,"s":1,"n":1,"t":1700000002000,"g":[{"c":["boiler/polls"],"u":[""],"r":[[0,1]]}]}`), rows(7, 2, counter, 2, 3, 4)},
			nil, "reading 1 of boiler/polls has the time 2023-11-14T22:13:22.000Z, but its value was served at 2023-11-14T22:13:20.020Z"},
		{"stamped long before", [][]byte{rows(7, 1, counter, 1, 2, 3), []byte(`{"gw":"g","e":7,"s":4,"n":1,"t":1699999997000,"g":[{"c":["boiler/polls"],"u":[""],"r":[[0,4]]}]}`)},
			nil, "reading 4 of boiler/polls has the time"},
		{"in the wrong order", [][]byte{rows(7, 1, counter, 1, 3, 2, 4)}, nil, "reading 3 of boiler/polls is 2"},
		{"another epoch", [][]byte{rows(7, 1, counter, 1, 2, 3, 4), rows(8, 1, counter, 5)}, nil, "epoch 8"},
		{"another channel", [][]byte{rows(7, 1, counter, 1, 2, 3), rows(7, 4, "oven/x", 9)}, nil, "oven/x is no channel"},
		{"not delivered by its own count", [][]byte{rows(7, 1, counter, 1, 2, 3, 4)}, func(c *claims) { c.delivered = 3 }, "counts 3 as delivered"},
		{"fewer than the sensor recorded", [][]byte{rows(7, 1, counter, 1, 2, 3, 4)}, boiler(4, 0, 5), "recorded 5 readings, 4 were delivered"},
		{"nothing", nil, func(c *claims) { *c = claims{} }, "boiler/polls: the gateway made 0 good polls, 0 readings were delivered"},
		{"not a payload", [][]byte{rows(7, 1, counter, 1, 2, 3, 4), []byte("{")}, nil, "cannot be decoded"},
		{"a range was given up", [][]byte{
			rows(7, 1, counter, 1, 2, 3, 4),
			[]byte(`{"gw":"g","e":7,"s":5,"n":1,"t":1700000000000,"g":[{"c":["boiler/polls"],"u":[""],"r":[[0,5]]}],"gap":[{"from":6,"to":9,"n":4,"t_from":0,"t_to":0,"reason":"evicted"}]}`),
		}, func(c *claims) { c.recorded, c.delivered = 5, 5 }, "readings 6 to 9 were given up: evicted"},
		{"not taken", [][]byte{
			[]byte(`{"gw":"g","e":7,"s":1,"n":1,"t":1700000000000,"g":[{"c":["boiler/polls"],"u":[""],"r":[[0,1]]}],"gap":[{"from":null,"to":null,"n":4,"t_from":0,"t_to":0,"reason":"unsampled"}]}`),
			rows(7, 2, counter, 2, 3, 4),
		}, nil, "4 readings were not taken: unsampled"},
		{"not good", [][]byte{
			[]byte(`{"gw":"g","e":7,"s":1,"n":1,"t":1700000000000,"g":[{"c":["boiler/polls"],"u":[""],"r":[[0,1]],"q":[[null,"stale-clock"]]}]}`),
			rows(7, 2, counter, 2, 3, 4),
		}, nil, "quality stale-clock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAccount(nil)
			for v := range 6 {
				a.serve(counter, float64(v+1), second(v).Add(20*time.Millisecond))
			}
			for _, p := range c.payloads {
				a.receive(p)
			}
			says := claims{recorded: 4, delivered: 4, sensors: map[string]polls{"boiler": {4, 0, 4}}}
			if c.claims != nil {
				c.claims(&says)
			}
			wrong := a.verify(says, []string{counter})
			if c.want == "" {
				require.Empty(t, wrong)
				return
			}
			require.Contains(t, fmt.Sprint(wrong), c.want)
			require.NotContains(t, fmt.Sprint(wrong), "by number", "each reading is accounted to its channel")
		})
	}
}

func TestTolerance(t *testing.T) {
	a := newAccount(map[string]float64{"cellar/temperature": 0.02})
	a.serve("cellar/temperature", 12.013, second(11))
	a.serve("cellar/temperature", 12.5, second(11))
	a.receive(rows(1, 1, "cellar/temperature", 12.02, 12.53))
	require.Equal(t, counts{payloads: 1, bytes: uint64(len(rows(1, 1, "cellar/temperature", 12.02, 12.53))), readings: 2, contiguous: 2}, a.counts())
	require.Len(t, a.wrong, 1)
	require.Contains(t, a.wrong[0], "12.53")
}

// TestSameValueAgain: of equal values the one that was served after the reading's time is the reading's.
func TestSameValueAgain(t *testing.T) {
	a := newAccount(nil)
	a.serve("boiler/polls", 3, second(1)) // to homeward check, or to a poll that failed
	a.serve("boiler/polls", 3, second(2))
	a.serve("boiler/polls", 4, second(3))
	a.receive(rows(1, 1, "boiler/polls", 3, 4)) // of the seconds 2 and 3
	require.Empty(t, a.wrong)
	require.Zero(t, a.served["boiler/polls"].Len())
}

// TestManyMistakes: what is remembered stays small.
func TestManyMistakes(t *testing.T) {
	a := newAccount(nil)
	for range 10 * maxWrong {
		a.receive([]byte("x"))
	}
	wrong := a.verify(claims{}, nil)
	require.Len(t, wrong, maxWrong+1)
	require.Contains(t, wrong[maxWrong], "180 more")
}
