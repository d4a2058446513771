package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"

	"homeward/agent/pack"
)

// What else a gateway could send: a JSON array, and a table through a general compressor.

// letters are those that stand in a JSON string as they are.
const letters = " !#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"

// base93 writes bytes as one number of that base; a 1 before them keeps leading zeros.
func base93(b []byte) []byte {
	n := new(big.Int).SetBytes(append([]byte{1}, b...))
	// Text goes to base 62; higher powers of 93 are taken off from the end.
	var out []byte
	const chunk = 9
	step, rest := new(big.Int).Exp(big.NewInt(int64(len(letters))), big.NewInt(chunk), nil), new(big.Int)
	for n.Sign() > 0 {
		n.QuoRem(n, step, rest)
		r := rest.Uint64()
		for range chunk {
			if r == 0 && n.Sign() == 0 {
				break
			}
			out = append(out, letters[r%uint64(len(letters))])
			r /= uint64(len(letters))
		}
	}
	return out // the least first
}

func unbase93(text []byte) ([]byte, error) {
	n, base := new(big.Int), big.NewInt(int64(len(letters)))
	for i := len(text) - 1; i >= 0; i-- {
		d := strings.IndexByte(letters, text[i])
		if d < 0 {
			return nil, fmt.Errorf("byte %d is %q: not a letter of base 93", i, text[i])
		}
		n.Add(n.Mul(n, base), big.NewInt(int64(d)))
	}
	b := n.Bytes()
	if len(b) == 0 || b[0] != 1 {
		return nil, fmt.Errorf("no 1 before the bytes")
	}
	return b[1:], nil
}

// arrayFiller is a JSON array of {t,n,v}.
type arrayFiller struct {
	b     []byte
	n     int
	limit int
}

func (f *arrayFiller) add(p pack.Poll) bool {
	for _, r := range p.Readings {
		one := strconv.AppendInt([]byte(`{"t":`), p.Time, 10)
		one = append(append(one, `,"n":`...), quoted(r.Channel)...)
		one = append(number(append(one, `,"v":`...), r.Value), '}')
		if len(f.b)+len("[")+len(one)+len("]") > f.limit {
			return false
		}
		f.b = append(append(f.b, one...), ',')
		f.n++
	}
	return true
}

// quoted is s as JSON, without the escapes that only HTML needs.
func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func (f *arrayFiller) close() ([]byte, int) {
	b := append([]byte{'['}, bytes.TrimSuffix(f.b, []byte(","))...)
	return append(b, ']'), f.n
}

func number(b []byte, v float64) []byte {
	text := strconv.AppendFloat(nil, v, 'f', -1, 64)
	if e := strconv.AppendFloat(nil, v, 'e', -1, 64); len(e) < len(text) {
		text = e
	}
	return append(b, text...)
}

// table writes polls as a text: for each sensor (polls with the same channels) a line of its channels and one line a poll,
// with the time since the one before and a blank for each value that has not changed since then.
func table(polls []pack.Poll) []byte {
	type group struct {
		lines []byte
		time  int64
		last  []float64
	}
	var order []string
	groups := map[string]*group{}
	for i := range polls {
		p := &polls[i]
		var key []byte
		for _, r := range p.Readings {
			key = append(append(key, ','), r.Channel...)
		}
		g := groups[string(key)]
		if g == nil {
			g = &group{lines: append([]byte("t"), append(key, '\n')...)}
			groups[string(key)] = g
			order = append(order, string(key))
		}
		g.lines = strconv.AppendInt(g.lines, p.Time-g.time, 10)
		g.time = p.Time
		for j, r := range p.Readings {
			g.lines = append(g.lines, ',')
			if len(g.last) <= j || !same(g.last[j], r.Value) {
				g.lines = number(g.lines, r.Value)
			}
		}
		g.last = g.last[:0]
		for _, r := range p.Readings {
			g.last = append(g.last, r.Value)
		}
		g.lines = append(g.lines, '\n')
	}
	var out []byte
	for _, key := range order {
		out = append(out, groups[key].lines...)
	}
	return out
}

// long is the same as t,channel,value lines, all written out.
func long(polls []pack.Poll) []byte {
	var out []byte
	var last int64
	for _, p := range polls {
		for _, r := range p.Readings {
			out = strconv.AppendInt(out, p.Time-last, 10)
			last = p.Time
			out = append(append(append(out, ','), r.Channel...), ',')
			out = append(number(out, r.Value), '\n')
		}
	}
	return out
}

func shrink(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w := brotli.NewWriterOptions(&b, brotli.WriterOptions{Quality: brotli.BestCompression, LGWin: 24})
	_, err := w.Write(text)
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}

func unshrink(b []byte) ([]byte, error) { return io.ReadAll(brotli.NewReader(bytes.NewReader(b))) }

// brotliPack fills payloads of a table, brotli 11 and base 93, each with as many polls as fit.
func brotliPack(polls []pack.Poll, limit int) (load, error) {
	l := load{limit: limit}
	guess := 8
	for rest := polls; len(rest) > 0; {
		// The most polls that fit lie in [low, high).
		low, high := 0, len(rest)+1
		var best []byte
		for k := min(guess, len(rest)); low+1 < high; {
			text, err := armoured(table(rest[:k]))
			if err != nil {
				return l, err
			}
			if len(text) <= limit {
				low, best = k, text
			} else {
				high = k
			}
			k = max(1, k*limit/len(text)) // nearly in proportion
			if k <= low {
				k = low + 1
			}
			if k >= high {
				k = high - 1
			}
		}
		if low == 0 { // a poll that is too large for a payload counts as one
			text, err := armoured(table(rest[:1]))
			if err != nil {
				return l, err
			}
			for len(text) > limit {
				l.payloads, l.counts = append(l.payloads, text[:limit]), append(l.counts, 0)
				text = text[limit:]
			}
			low, best = 1, text
		}
		n := 0
		for _, p := range rest[:low] {
			n += len(p.Readings)
		}
		l.payloads, l.counts = append(l.payloads, best), append(l.counts, n)
		rest, guess = rest[low:], low
	}
	return l, nil
}

func armoured(text []byte) ([]byte, error) {
	b, err := shrink(text)
	return base93(b), err
}

// wholeBrotli is what brotli 11 makes of all polls in one piece, in letters: the better of two ways to write them.
func wholeBrotli(polls []pack.Poll) (int, error) {
	least := 0
	for i, text := range [][]byte{table(polls), long(polls)} {
		b, err := shrink(text)
		if err != nil {
			return 0, err
		}
		if n := lettersFor(len(b)); i == 0 || n < least {
			least = n
		}
	}
	return least, nil
}

// lettersFor is how many letters of base 93 n bytes take.
func lettersFor(n int) int {
	bits := float64(8 * n)
	return int(bits/6.5391588111) + 1 // log2 of 93
}

func same(a, b float64) bool { return a == b && 1/a == 1/b }
