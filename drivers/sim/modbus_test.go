package sim

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// serve runs d at the other end of the returned connection until the test ends.
func serve(t *testing.T, d *Modbus, line drivers.Line) net.Conn {
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		_ = d.Serve(ctx, theirs, line)
	}()
	t.Cleanup(func() {
		cancel()
		ours.Close()
		theirs.Close()
		<-done
	})
	return ours
}

// ask sends a request, its CRC added, and returns what comes within a second.
func ask(t *testing.T, c net.Conn, request string) string {
	t.Helper()
	b, err := hex.DecodeString(request)
	require.NoError(t, err)
	crc := rtuCRC(b)
	_, err = c.Write(append(b, byte(crc), byte(crc>>8)))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
	reply, _ := io.ReadAll(c)
	return hex.EncodeToString(reply)
}

// sample is the four tables of the application protocol's examples, §6.1 to §6.4.
func sample() *ModbusMap {
	m := new(ModbusMap)
	m.Set(Coils, 0x13, bitsOf(0xCD, 0x6B, 0x05)...)
	m.Set(Discrete, 0xC4, bitsOf(0xAC, 0xDB, 0x35)...)
	m.Set(Holding, 0x6B, 0x022B, 0x0000, 0x0064)
	m.SetFunc(Input, 8, 1, func() []uint16 { return []uint16{0x000A} })
	return m
}

func bitsOf(bytes ...byte) (bits []uint16) {
	for _, b := range bytes {
		for i := range 8 {
			bits = append(bits, uint16(b>>i&1))
		}
	}
	return bits
}

func TestModbusReplies(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		{"coils, §6.1", "110100130013", "110103cd6b05"},
		{"discrete inputs, §6.2", "110200c40016", "110203acdb35"},
		{"holding registers, §6.3", "1103006b0003", "110306022b00000064"},
		{"input registers, §6.4", "110400080001", "110402000a"},
		{"not there", "1103006b0004", "118302"},
		{"none asked for", "1103006b0000", "118303"},
		{"126 registers", "1103006b007e", "118303"},
		{"beyond the end", "1103ffff0002", "118302"},
		{"write", "1106006b0001", "118601"},
		{"another unit", "1203006b0001", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := new(Modbus)
				d.AddSlave(0x11, sample())
				got := ask(t, serve(t, d, drivers.Line{}), c.request)
				if c.want == "" {
					require.Empty(t, got)
					require.Zero(t, d.Requests(0x12))
					return
				}
				require.Equal(t, c.want, got[:len(got)-4])
				b, _ := hex.DecodeString(got)
				require.True(t, rtuOK(b))
				require.Equal(t, 1, d.Requests(0x11))
			})
		})
	}
}

func TestModbusFaults(t *testing.T) {
	const request = "1103006b0001" // its healthy reply: 11 03 02 02 2b and the CRC
	for _, c := range []struct {
		name  string
		fault ModbusFault
		want  string
		crc   bool
	}{
		{"silent", ModbusFault{Silent: true}, "", false},
		{"truncated", ModbusFault{Truncate: 4}, "11030202", false},
		{"corrupt", ModbusFault{Corrupt: true}, "110302022b", false},
		{"noise", ModbusFault{Noise: []byte{0xDE, 0xAD}}, "dead110302022b", false},
		{"unit", ModbusFault{Unit: 0x12}, "120302022b", true},
		{"function", ModbusFault{Function: 4}, "110402022b", true},
		{"longer", ModbusFault{Length: 2}, "110304022b0000", true},
		{"shorter", ModbusFault{Length: -1}, "11030102", true},
		{"exception", ModbusFault{Exception: 6}, "118306", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := new(Modbus)
				d.AddSlave(0x11, sample())
				c.fault.Times = 1
				d.SetFault(0x11, c.fault)
				conn := serve(t, d, drivers.Line{})
				got := ask(t, conn, request)
				if c.fault.Truncate == 0 && !c.fault.Silent {
					require.Len(t, got, len(c.want)+4)
				}
				require.Equal(t, c.want, got[:len(c.want)])
				b, _ := hex.DecodeString(got)
				require.Equal(t, c.crc, rtuOK(b))
				require.Equal(t, "110302022b", ask(t, conn, request)[:10], "it lasts one request")
			})
		})
	}
}

// TestModbusLate: a late unit answers when its time has come, others meanwhile.
func TestModbusLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(Modbus)
		d.AddSlave(0x11, sample())
		d.AddSlave(0x12, sample())
		d.SetFault(0x11, ModbusFault{Late: 1500 * time.Millisecond})
		conn := serve(t, d, drivers.Line{Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 1})
		require.Empty(t, ask(t, conn, "1103006b0001"), "nothing within a second")
		got := ask(t, conn, "1203006b0001")
		require.Len(t, got, 28)
		require.Equal(t, "120302022b", got[:10], "the other's comes first")
		require.Equal(t, "110302022b", got[14:24], "within the next second")
	})
}

// TestModbusForgets: half a request and a silence are no beginning of the next one.
func TestModbusForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(Modbus)
		d.AddSlave(0x11, sample())
		conn := serve(t, d, drivers.Line{})
		_, err := conn.Write([]byte{0x11, 0x03, 0x00})
		require.NoError(t, err)
		time.Sleep(modbusIdle + time.Millisecond)
		require.Equal(t, "110302022b", ask(t, conn, "1103006b0001")[:10])
		_, err = conn.Write(make([]byte, 256))
		require.NoError(t, err)
		_, err = conn.Write(make([]byte, 1))
		require.NoError(t, err)
		time.Sleep(modbusIdle + time.Millisecond)
		require.Equal(t, "110302022b", ask(t, conn, "1103006b0001")[:10])
		require.Equal(t, 2, d.Requests(0x11))
	})
}

// TestModbusTwoAtOnce: requests that arrive in one piece are answered one after the other.
func TestModbusTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(Modbus)
		d.AddSlave(0x11, sample())
		d.AddSlave(0x12, sample())
		d.SetFault(0x12, ModbusFault{Silent: true})
		conn := serve(t, d, drivers.Line{})
		both := binary.LittleEndian.AppendUint16([]byte{0x12, 3, 0, 0x6B, 0, 1}, 0)
		binary.LittleEndian.PutUint16(both[6:], rtuCRC(both[:6]))
		both = append(both, 0x11, 3, 0, 0x6B, 0, 1)
		both = binary.LittleEndian.AppendUint16(both, rtuCRC(both[8:]))
		_, err := conn.Write(both)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
		reply := make([]byte, 7)
		_, err = io.ReadFull(conn, reply)
		require.NoError(t, err)
		require.Equal(t, "110302022b", hex.EncodeToString(reply[:5]))
		require.Equal(t, 1, d.Requests(0x12))
	})
}

func TestModbusWords(t *testing.T) {
	for _, c := range []struct {
		kind, order, words string
		v                  float64
		want               []uint16
	}{
		{"int16", "big", "big", -2, []uint16{0xFFFE}},
		{"uint16", "little", "big", 0x1234, []uint16{0x3412}},
		{"uint32", "big", "big", 0x12345678, []uint16{0x1234, 0x5678}},
		{"uint32", "big", "little", 0x12345678, []uint16{0x5678, 0x1234}},
		{"int32", "little", "little", 0x12345678, []uint16{0x7856, 0x3412}},
		{"int64", "", "", -1, []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF}},
		{"uint64", "", "", 1 << 53, []uint16{0x0020, 0, 0, 0}},
		{"float32", "", "", 21.4, []uint16{0x41AB, 0x3333}},
		{"float64", "", "", -1.5, []uint16{0xBFF8, 0, 0, 0}},
	} {
		got, err := ModbusWords(c.kind, c.order, c.words, c.v)
		require.NoError(t, err)
		require.Equal(t, c.want, got, c.kind)
	}
	for kind, v := range map[string]float64{"int16": 32768, "uint16": -1, "uint32": 1 << 32, "int64": 1 << 63, "uint64": 1 << 64, "int8": 0} {
		_, err := ModbusWords(kind, "", "", v)
		require.Error(t, err, kind)
	}
}

func TestParseModbusTable(t *testing.T) {
	for s, want := range map[string]ModbusTable{"coil": Coils, "discrete": Discrete, "holding": Holding, "input": Input} {
		got, err := ParseModbusTable(s)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := ParseModbusTable("register")
	require.Error(t, err)
}
