package modbus

import (
	"encoding/binary"
	"fmt"
)

// Function codes, "MODBUS Application Protocol Specification V1.1b3" §6.
const (
	readCoils    = 0x01
	readDiscrete = 0x02
	readHolding  = 0x03
	readInput    = 0x04

	exceptionBit = 0x80
)

const (
	minFrame = 5   // an exception: unit, function, code, CRC
	maxFrame = 256 // "MODBUS over Serial Line V1.02" §2.5.1
	maxUnit  = 247 // ibid. §2.2; 0 is the broadcast address, which nobody answers
)

// exceptions are named as the application protocol §7 names them.
var exceptions = map[byte]string{
	0x01: "illegal function",
	0x02: "illegal data address",
	0x03: "illegal data value",
	0x04: "server device failure",
	0x05: "acknowledge (still busy with it)",
	0x06: "server device busy",
	0x08: "memory parity error",
	0x0A: "gateway path unavailable",
	0x0B: "gateway target failed to respond",
}

func exceptionName(code byte) string {
	if name, ok := exceptions[code]; ok {
		return fmt.Sprintf("%s (0x%02X)", name, code)
	}
	return fmt.Sprintf("unknown exception 0x%02X", code)
}

// crcTable is for the polynomial 0xA001, "MODBUS over Serial Line V1.02" §6.2.2.
var crcTable = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}()

func crc(b []byte) uint16 {
	c := uint16(0xFFFF)
	for _, x := range b {
		c = c>>8 ^ crcTable[byte(c)^x]
	}
	return c
}

func appendCRC(b []byte) []byte { return binary.LittleEndian.AppendUint16(b, crc(b)) }

func crcOK(frame []byte) bool {
	n := len(frame) - 2
	return n > 0 && binary.LittleEndian.Uint16(frame[n:]) == crc(frame[:n])
}

// request asks one unit for count registers or bits.
type request struct {
	unit     byte
	function byte
	address  uint16
	count    uint16
}

func (r request) encode() []byte {
	b := []byte{r.unit, r.function}
	b = binary.BigEndian.AppendUint16(b, r.address)
	b = binary.BigEndian.AppendUint16(b, r.count)
	return appendCRC(b)
}

// size is the number of data bytes that the reply must carry.
func (r request) size() int {
	if r.function == readCoils || r.function == readDiscrete {
		return (int(r.count) + 7) / 8
	}
	return 2 * int(r.count)
}

// verdict is what received bytes are, seen as the beginning of a frame.
type verdict int

const (
	partial verdict = iota // may become a frame: wait for more
	answer                 // the reply, whole and checked
	refusal                // the exception reply, whole and checked
	foreign                // a whole, checked frame, but not of this request
	damaged                // the reply by unit, function, byte count and length, but its CRC is wrong
	junk                   // no frame
)

// judge reads the frame at the beginning of b, which holds all that has come since
// the last silence, and says how long it is; for partial, how long it
// will be as far as can be seen.
func (r request) judge(b []byte) (v verdict, n int) {
	if len(b) < 2 {
		return partial, minFrame
	}
	mine := b[0] == r.unit
	switch fn := b[1]; {
	case fn&exceptionBit != 0:
		n = minFrame
		mine = mine && fn == r.function|exceptionBit
	case fn >= readCoils && fn <= readInput:
		if len(b) < 3 {
			return partial, minFrame
		}
		n = minFrame + int(b[2])
		mine = mine && fn == r.function && int(b[2]) == r.size()
	default:
		return junk, len(b)
	}
	switch {
	case n > maxFrame:
		return junk, len(b)
	case len(b) < n:
		return partial, n
	case !crcOK(b[:n]):
		// Noise that by chance begins with unit, function and byte count and has the right
		// length is taken for the (useless) reply: one burst in 2²⁴.
		if mine && len(b) == n && b[1] == r.function {
			return damaged, n
		}
		return junk, len(b)
	case !mine:
		return foreign, n
	case b[1]&exceptionBit != 0:
		return refusal, n
	default:
		return answer, n
	}
}
