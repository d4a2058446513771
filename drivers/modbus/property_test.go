package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"homeward/drivers"
)

// TestRightOrError: whatever the line does, a value is the one that its unit held for its
// register when it handled that very request, or there is none.
//
// A register's value says who holds it and how many requests that unit has handled, so that a reply
// to any other request shows.
func TestRightOrError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWire(rapid.SampledFrom([]string{"9600-8E1", "19200-8E1", "115200-8N1"}).Draw(t, "line"))
		if rapid.Bool().Draw(t, "usb") {
			w.burst = 16 * time.Millisecond
		}
		var shared drivers.Shared
		var sensors []*Sensor
		for unit := 1; unit <= rapid.IntRange(1, 3).Draw(t, "units"); unit++ {
			o := &Options{UnitID: ptr(unit), Line: w.line.String()}
			for i := range rapid.IntRange(1, 6).Draw(t, "channels") {
				kind := rapid.SampledFrom([]string{"holding", "input"}).Draw(t, "kind")
				o.Chans = append(o.Chans, channel(fmt.Sprintf("%d", i), kind, rapid.IntRange(0, 40).Draw(t, "address"), "uint16"))
			}
			sensors = append(sensors, w.open(t, &shared, o))
		}

		handled := map[byte]int{}
		value := func(unit, function byte, address, version int) uint16 {
			h := fnv.New32a()
			fmt.Fprint(h, unit, function, address, version)
			return uint16(h.Sum32())
		}
		healthy := false
		w.onWrite = func(end time.Time, frame []byte) {
			unit, function := frame[0], frame[1]
			address, count := int(binary.BigEndian.Uint16(frame[2:])), int(binary.BigEndian.Uint16(frame[4:]))
			handled[unit]++
			values := make([]uint16, count)
			for i := range values {
				values[i] = value(unit, function, address+i, handled[unit])
			}
			at, reply := end.Add(4*time.Millisecond), registers(unit, function, values...)
			if healthy {
				w.deliver(at, reply)
				return
			}
			// As late as the driver says that it can tell, less what the reply itself takes.
			const most = timeout + 2*timeout
			switch rapid.SampledFrom([]string{"ok", "ok", "late", "silent", "torn", "flipped", "before", "after", "unit", "function", "length", "exception", "foreign"}).Draw(t, "fault") {
			case "late":
				at = end.Add(time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, "delay")))
			case "silent":
				return
			case "torn":
				reply = reply[:rapid.IntRange(0, len(reply)-1).Draw(t, "cut")]
			case "flipped": // a burst of up to 16 bits, which the CRC always finds
				i := rapid.IntRange(0, len(reply)-2).Draw(t, "at")
				x := rapid.Uint16Range(1, 0xFFFF).Draw(t, "xor")
				reply[i] ^= byte(x >> 8)
				reply[i+1] ^= byte(x)
			case "before":
				reply = append(rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "noise"), reply...)
			case "after":
				reply = append(reply, rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "noise")...)
			case "unit":
				reply = registers(unit%3+1, function, values...)
			case "function":
				reply = registers(unit, 7-function, values...)
			case "length":
				reply = registers(unit, function, append(values, 1)...)
			case "exception":
				reply = appendCRC([]byte{unit, function | 0x80, 2})
			case "foreign":
				w.deliver(end, registers(unit%3+1, function, values...))
				at = at.Add(time.Duration(rapid.Int64Range(0, int64(timeout/2)).Draw(t, "delay")))
			}
			w.deliver(at, reply)
		}

		check := func(s *Sensor) error {
			// Every request of this poll gets the next version; which one served a
			// channel is told by its block.
			before := handled[s.unit]
			sent := len(w.sent)
			got, err := s.Read(context.Background())
			version := map[string]int{}
			for i, frame := range w.sent[sent:] {
				for _, b := range s.blocks {
					if b.function == frame[1] && b.address == int(binary.BigEndian.Uint16(frame[2:])) {
						for _, p := range b.points {
							version[s.points[p].name] = before + i + 1
						}
					}
				}
			}
			for _, r := range got {
				p := s.points[int(r.Channel[0]-'0')]
				if want := value(s.unit, p.function, p.address, version[r.Channel]); r.Value != float64(want) {
					t.Fatalf("unit %d, channel %s: %v, want %v", s.unit, r.Channel, r.Value, want)
				}
			}
			if err == nil && len(got) != len(s.points) {
				t.Fatalf("%d of %d readings and no error", len(got), len(s.points))
			}
			return err
		}
		for range rapid.IntRange(1, 12).Draw(t, "polls") {
			s := rapid.SampledFrom(sensors).Draw(t, "sensor")
			w.t = w.t.Add(time.Duration(rapid.Int64Range(0, int64(3*timeout)).Draw(t, "idle")))
			begin := w.t
			err := check(s)
			limit := time.Duration(len(s.blocks)+1) * (2*timeout + 300*time.Millisecond)
			if took := w.t.Sub(begin); took > limit {
				t.Fatalf("a poll took %v", took)
			}
			if errors.Is(err, drivers.ErrHeld) && !errors.Is(err, drivers.ErrCheck) && w.t != begin && len(s.blocks) == 1 {
				t.Fatalf("held, but the line was used")
			}
		}
		// When the line is well again, all is well after the hold.
		healthy = true
		w.t = w.t.Add(time.Minute)
		for _, s := range sensors {
			if err := check(s); err != nil {
				t.Fatalf("not recovered: %v", err)
			}
		}
	})
}
