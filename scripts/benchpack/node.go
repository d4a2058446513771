package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// nodeScript decodes payloads with packed.js, several times over, and writes what it got in the last round.
const nodeScript = `
const packed = require(process.argv[1]);
const c = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const f = new Float64Array(1), u = new Uint32Array(f.buffer);
const hex = v => { f[0] = v; return u[1].toString(16).padStart(8, '0') + u[0].toString(16).padStart(8, '0'); };
const now = () => Number(process.hrtime.bigint()) / 1e6;
let begin = now();
const decode = packed.decoder(c.schema);
const out = {prepare_ms: now() - begin, first_ms: 0, payload_ms: [], payloads: []};
for (let round = 0; round < c.rounds; round++)
  c.payloads.forEach((b, i) => {
    const payload = Buffer.from(b, 'base64').toString('latin1');
    begin = now();
    const d = decode(payload);
    const took = now() - begin;
    if (!round && !i) out.first_ms = took;
    out.payload_ms[i] = Math.min(took, round ? out.payload_ms[i] : Infinity);
    if (round == c.rounds - 1)
      out.payloads.push({gateway: d.gateway, epoch: d.epoch, first: d.first, gaps: d.gaps.length,
        readings: d.readings.map(r => [String(r.seq), String(r.t), r.n, hex(r.v), r.u, r.q])});
  });
process.stdout.write(JSON.stringify(out));
`

// nodeResult is what the decoder in JavaScript took.
type nodeResult struct {
	PrepareMS float64   `json:"prepare_ms"` // a schema, once
	FirstMS   float64   `json:"first_ms"`   // of the first payload, with nothing warm
	PayloadMS []float64 `json:"payload_ms"` // of each payload, the least of several rounds
	Payloads  []struct {
		Gateway  string      `json:"gateway"`
		Epoch    uint32      `json:"epoch"`
		First    uint64      `json:"first"`
		Gaps     int         `json:"gaps"`
		Readings [][6]string `json:"readings"`
	} `json:"payloads"`
}

const (
	nodeRounds   = 5
	nodePatience = 5 * time.Minute
)

// runNode decodes text payloads with a decoder in JavaScript. What it gave for the payloads, in their order, comes back
// as a decode function for [codec.verify].
func runNode(node, script string, schema *packed.Schema, l load) (r nodeResult, decode func([]byte) (pack.Payload, error), err error) {
	path, err := filepath.Abs(script)
	if err != nil {
		return r, nil, err
	}
	in, err := json.Marshal(map[string]any{"schema": string(schema.Text()), "payloads": l.payloads, "rounds": nodeRounds})
	if err != nil {
		return r, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodePatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "-e", nodeScript, path)
	cmd.Stdin = bytes.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return r, nil, fmt.Errorf("node: %w: %s", err, firstLines(errs.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, nil, fmt.Errorf("node: %w", err)
	}
	if len(r.Payloads) != len(l.payloads) || len(r.PayloadMS) != len(l.payloads) {
		return r, nil, fmt.Errorf("node: %d payloads came back: want %d", len(r.Payloads), len(l.payloads))
	}
	next := 0
	return r, func([]byte) (pack.Payload, error) {
		got := r.Payloads[next]
		next++
		p := pack.Payload{Header: pack.Header{Gateway: got.Gateway, Epoch: got.Epoch, First: got.First}, Gaps: make([]pack.Gap, got.Gaps)}
		for _, x := range got.Readings {
			seq, err1 := strconv.ParseUint(x[0], 10, 64)
			t, err2 := strconv.ParseInt(x[1], 10, 64)
			bits, err3 := strconv.ParseUint(x[3], 16, 64)
			q, err4 := drivers.ParseQuality(x[5])
			if err := errors.Join(err1, err2, err3, err4); err != nil {
				return p, err
			}
			p.Readings = append(p.Readings, pack.Reading{Seq: seq, TimeMS: t, Channel: x[2], Value: math.Float64frombits(bits), Unit: drivers.Unit(x[4]), Quality: q})
		}
		return p, nil
	}, nil
}

func firstLines(s string) string {
	if len(s) > 400 {
		s = s[:400] + "…"
	}
	return s
}
