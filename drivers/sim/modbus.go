package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"homeward/drivers"
)

// ModbusTable is one of a unit's four tables, numbered as the function that reads it.
type ModbusTable byte

// The tables.
const (
	Coils    ModbusTable = 1
	Discrete ModbusTable = 2
	Holding  ModbusTable = 3
	Input    ModbusTable = 4
)

// ParseModbusTable reads coil, discrete, holding or input.
func ParseModbusTable(s string) (ModbusTable, error) {
	for t, name := range map[ModbusTable]string{Coils: "coil", Discrete: "discrete", Holding: "holding", Input: "input"} {
		if s == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("sim: modbus table %q: want coil, discrete, holding or input", s)
}

// ModbusMap holds what one unit has to tell. What is not set is an illegal data address. It may
// be changed while it is served.
type ModbusMap struct {
	mu    sync.Mutex
	cells map[ModbusTable]map[uint16]cell
}

type cell struct {
	value uint16
	src   *source
	at    int
}

type source struct{ values func() []uint16 }

// Set sets registers, or bits (0 or 1), from address on.
func (m *ModbusMap) Set(t ModbusTable, address uint16, values ...uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range values {
		m.set(t, address+uint16(i), cell{value: v})
	}
}

// SetFunc lets count registers or bits be asked of a function, once per request.
func (m *ModbusMap) SetFunc(t ModbusTable, address uint16, count int, values func() []uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	src := &source{values}
	for i := range count {
		m.set(t, address+uint16(i), cell{src: src, at: i})
	}
}

func (m *ModbusMap) set(t ModbusTable, address uint16, c cell) {
	if m.cells == nil {
		m.cells = map[ModbusTable]map[uint16]cell{}
	}
	if m.cells[t] == nil {
		m.cells[t] = map[uint16]cell{}
	}
	m.cells[t][address] = c
}

// read returns count values, or false where one is missing.
func (m *ModbusMap) read(t ModbusTable, address, count int) ([]uint16, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := map[*source][]uint16{}
	values := make([]uint16, count)
	for i := range values {
		c, ok := m.cells[t][uint16(address+i)]
		if !ok {
			return nil, false
		}
		values[i] = c.value
		if c.src != nil {
			got, ok := asked[c.src]
			if !ok {
				got = c.src.values()
				asked[c.src] = got
			}
			if c.at >= len(got) {
				return nil, false
			}
			values[i] = got[c.at]
		}
	}
	return values, true
}

// ModbusFault is what a unit does wrong. The zero value is a healthy unit.
type ModbusFault struct {
	Silent    bool          // no reply
	Late      time.Duration // the reply comes this much later; other requests are answered meanwhile
	Truncate  int           // only this many bytes of the reply are sent
	Corrupt   bool          // the CRC is wrong; TCP: the protocol identifier
	Noise     []byte        // comes right before the reply
	Unit      byte          // the reply bears this unit's number
	Foreign   bool          // TCP: the reply bears another transaction id
	Function  byte          // the reply bears this function
	Length    int           // data bytes too many (or, negative, too few), with a right CRC or length
	Exception byte          // refused with this code
	Times     int           // how many requests it lasts; 0 until it is changed
}

// Modbus is a [SerialDevice]: RTU slaves of one or several units that answer functions
// 1 to 4. It is safe for use by several goroutines.
type Modbus struct {
	// Delay is how long a unit thinks before it replies, beyond the 3.5
	// characters that end a request. Set it before serving.
	Delay time.Duration

	mu    sync.Mutex
	units map[byte]*modbusUnit
}

type modbusUnit struct {
	regs     *ModbusMap
	fault    ModbusFault
	requests int
}

// AddSlave adds a unit, 1 to 247, or replaces its registers.
func (d *Modbus) AddSlave(unit byte, regs *ModbusMap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.units == nil {
		d.units = map[byte]*modbusUnit{}
	}
	d.units[unit] = &modbusUnit{regs: regs}
}

// SetFault sets what a unit does wrong from now on.
func (d *Modbus) SetFault(unit byte, f ModbusFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if u := d.units[unit]; u != nil {
		u.fault = f
	}
}

// Requests says how many whole requests a unit has had.
func (d *Modbus) Requests(unit byte) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if u := d.units[unit]; u != nil {
		return u.requests
	}
	return 0
}

// modbusIdle is the silence after which a slave forgets the beginning of a request. Longer
// than the standard's 1.5 characters, as a process may be held up between two reads.
const modbusIdle = 20 * time.Millisecond

// Serve implements [SerialDevice].
func (d *Modbus) Serve(ctx context.Context, rw io.ReadWriter, line drivers.Line) error {
	ctx, cancel := context.WithCancel(ctx)
	var (
		sending sync.Mutex
		late    sync.WaitGroup
		buf     []byte
		last    time.Time
		chunk   = make([]byte, 256)
	)
	defer late.Wait()
	defer cancel()
	for {
		n, err := rw.Read(chunk)
		if err != nil {
			return err
		}
		now := time.Now()
		if now.Sub(last) > modbusIdle {
			buf = buf[:0]
		}
		last = now
		if buf = append(buf, chunk[:n]...); len(buf) > 256 {
			buf = buf[:0]
			continue
		}
		// A loaded machine may bring several requests in one piece.
		for len(buf) > 0 {
			n := wholeRequest(buf)
			if n == 0 {
				break
			}
			reply, f := d.answer(buf[:n])
			buf = buf[n:]
			if reply == nil {
				continue
			}
			due := now.Add(requestTime(line, n) + d.Delay + f.Late)
			send := func() error {
				if err := pause(ctx, time.Until(due)); err != nil {
					return err
				}
				sending.Lock()
				defer sending.Unlock()
				return WritePaced(ctx, rw, line, reply)
			}
			if f.Late > 0 {
				late.Go(func() { _ = send() })
			} else if err := send(); err != nil {
				return err
			}
		}
	}
}

// wholeRequest is the length of the request that b begins with, 0 where it is none (yet).
func wholeRequest(b []byte) int {
	const size = 8 // of every request of functions 1 to 4
	switch {
	case len(b) >= size && rtuOK(b[:size]):
		return size
	case rtuOK(b): // of another function
		return len(b)
	}
	return 0
}

// requestTime is how long n characters and the silence that ends them take on the line.
func requestTime(line drivers.Line, n int) time.Duration {
	if line.Baud <= 0 {
		return 0
	}
	silence := 7 * line.CharTime() / 2
	if line.Baud > 19200 {
		silence = 1750 * time.Microsecond
	}
	return time.Duration(n)*line.CharTime() + silence
}

// answer makes the reply to a whole request, nil for none.
func (d *Modbus) answer(req []byte) ([]byte, ModbusFault) {
	reply, f := d.respond(req)
	if reply == nil {
		return nil, f
	}
	reply = binary.LittleEndian.AppendUint16(reply, rtuCRC(reply))
	if f.Corrupt {
		reply[len(reply)-1] ^= 0x5A
	}
	return f.onWire(reply), f
}

// onWire cuts a reply short and puts noise before it.
func (f ModbusFault) onWire(reply []byte) []byte {
	if f.Truncate > 0 {
		reply = reply[:min(len(reply), f.Truncate)]
	}
	return append(append([]byte(nil), f.Noise...), reply...)
}

// respond makes the reply, unit and function first, without CRC, nil for none.
func (d *Modbus) respond(req []byte) ([]byte, ModbusFault) {
	d.mu.Lock()
	u := d.units[req[0]]
	if u == nil {
		d.mu.Unlock()
		return nil, ModbusFault{}
	}
	u.requests++
	f := u.fault
	if f.Times > 0 {
		if u.fault.Times--; u.fault.Times == 0 {
			u.fault = ModbusFault{}
		}
	}
	regs := u.regs
	d.mu.Unlock()
	if f.Silent {
		return nil, f
	}
	reply, code := regs.reply(req)
	if f.Exception != 0 {
		code = f.Exception
	}
	if code != 0 {
		reply = []byte{req[0], req[1] | 0x80, code}
	} else if f.Length != 0 {
		want := max(0, min(250, int(reply[2])+f.Length))
		reply = append(reply, make([]byte, 250)...)[:3+want]
		reply[2] = byte(want)
	}
	if f.Unit != 0 {
		reply[0] = f.Unit
	}
	if f.Function != 0 {
		reply[1] = f.Function
	}
	return reply, f
}

// reply makes a reply without CRC, or an exception code.
func (m *ModbusMap) reply(req []byte) (reply []byte, exception byte) {
	t := ModbusTable(req[1])
	if t < Coils || t > Input {
		return nil, 0x01
	}
	address, count := int(binary.BigEndian.Uint16(req[2:])), int(binary.BigEndian.Uint16(req[4:]))
	most := 125
	if t <= Discrete {
		most = 2000
	}
	if count < 1 || count > most {
		return nil, 0x03
	}
	if address+count > 0x10000 {
		return nil, 0x02
	}
	values, ok := m.read(t, address, count)
	if !ok {
		return nil, 0x02
	}
	if t <= Discrete {
		reply = append([]byte{req[0], req[1], byte((count + 7) / 8)}, make([]byte, (count+7)/8)...)
		for i, v := range values {
			if v != 0 {
				reply[3+i/8] |= 1 << (i % 8)
			}
		}
		return reply, 0
	}
	reply = []byte{req[0], req[1], byte(2 * count)}
	for _, v := range values {
		reply = binary.BigEndian.AppendUint16(reply, v)
	}
	return reply, 0
}

// rtuCRC is computed bit by bit, unlike the driver's, so that one checks the other.
func rtuCRC(b []byte) uint16 {
	c := uint16(0xFFFF)
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			odd := c & 1
			c >>= 1
			if odd != 0 {
				c ^= 0xA001
			}
		}
	}
	return c
}

func rtuOK(b []byte) bool {
	return len(b) >= 4 && binary.LittleEndian.Uint16(b[len(b)-2:]) == rtuCRC(b[:len(b)-2])
}

// ModbusWords writes a number as the registers of a unit: kind is int16 … float64, order the byte
// order within a register and words the order of the registers, both big
// or little. A number that kind cannot hold is an error.
func ModbusWords(kind, order, words string, v float64) ([]uint16, error) {
	var bits, size = uint64(0), 1
	whole := func(n int, low, high float64) error {
		size = n
		if r := math.Round(v); !(r >= low && r <= high) {
			return fmt.Errorf("sim: %g does not fit %s", v, kind)
		} else if r < 0 {
			bits = uint64(int64(r))
		} else {
			bits = uint64(r)
		}
		return nil
	}
	var err error
	switch kind {
	case "int16":
		err = whole(1, math.MinInt16, math.MaxInt16)
	case "uint16":
		err = whole(1, 0, math.MaxUint16)
	case "int32":
		err = whole(2, math.MinInt32, math.MaxInt32)
	case "uint32":
		err = whole(2, 0, math.MaxUint32)
	case "int64":
		err = whole(4, math.MinInt64, 1<<63-1024) // the largest float64 below 2^63
	case "uint64":
		err = whole(4, 0, 1<<64-2048)
	case "float32":
		bits, size = uint64(math.Float32bits(float32(v))), 2
	case "float64":
		bits, size = math.Float64bits(v), 4
	default:
		err = fmt.Errorf("sim: kind %q: want int16, uint16, int32, uint32, int64, uint64, float32 or float64", kind)
	}
	if err != nil {
		return nil, err
	}
	regs := make([]uint16, size)
	for i := range regs {
		r := uint16(bits >> (16 * (size - 1 - i)))
		if order == "little" {
			r = r>>8 | r<<8
		}
		at := i
		if words == "little" {
			at = size - 1 - i
		}
		regs[at] = r
	}
	return regs, nil
}
