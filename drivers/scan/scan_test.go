package scan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/hostbus"
	"homeward/drivers/sim"
)

// others are the addresses that a chip may have beside its own.
var others = map[string][]uint16{
	"bme280": {0x77}, "bmp280": {0x77}, "tmp102": {0x49, 0x4A, 0x4B}, "lm75": {0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F},
	"sht3x": {0x45}, "sht4x": {0x45, 0x46}, "mcp9808": {0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F}, "bh1750": {0x5C},
	"ads1115": {0x49, 0x4A, 0x4B}, "ina219": {0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F},
}

// unasked are chips that are named only with Ask, and why.
var unasked = map[string]string{
	"tmp102":  "after power-on its plain read may look like a PCF8591's samples",
	"lm75":    "the same",
	"ads1115": "the same: nothing was converted yet",
	"sht3x":   "where it answers a plain read, it cannot be told from a chip with registers",
	"sht4x":   "the same",
	"scd4x":   "the same",
	"ina219":  "at 0x48 and above: the same as tmp102; below, before its first conversion is ready",
}

// watched counts what is written to a chip.
type watched struct {
	sim.I2CChip
	written [][]byte
}

func (w *watched) I2C(b []byte, n int) ([]byte, bool) {
	if len(b) > 0 {
		w.written = append(w.written, slices.Clone(b))
	}
	return w.I2CChip.I2C(b, n)
}

// harmless says that the package comment allows writing b at an address.
func harmless(addr uint16, b []byte) bool {
	s := fmt.Sprintf("%x", b)
	switch {
	case addr >= 0x18 && addr <= 0x1F:
		return s == "06" || s == "07"
	case addr >= 0x44 && addr <= 0x46 && (s == "89" || s == "f32d" && addr != 0x46):
		return true
	case addr >= 0x40 && addr <= 0x47:
		return s == "02" || s == "00" || s == "05"
	case addr >= 0x48 && addr <= 0x4F:
		return slices.Contains([]string{"00", "01", "02", "03", "05"}, s)
	case addr == 0x62:
		return s == "e4b8"
	case addr == 0x76 || addr == 0x77:
		return s == "d0"
	}
	return false
}

func siteOf(w *sim.World) Options {
	return Options{
		Root:  "/nonexistent",
		Sim:   func(context.Context) ([]drivers.Bus, error) { return w.List(), nil },
		Sleep: func(time.Duration) {},
		Open: func(_ context.Context, b drivers.Bus) (*hostbus.Handle, error) {
			o, err := w.Open(b)
			h := hostbus.NewHandle(o.Close)
			h.I2C, h.SPI = o.I2C, o.SPI
			return h, err
		},
	}
}

// TestChips: each simulated chip is named at each address that it may have, with a configuration that its driver
// takes, and nothing is written that could change a chip.
func TestChips(t *testing.T) {
	looked := 0
	for _, ct := range sim.ChipTypes() {
		if ct.Bus != drivers.I2C {
			continue // SPI and 1-Wire are listed by the kernel's files: there is nothing to ask
		}
		for _, addr := range append([]uint16{ct.Address}, others[ct.Name]...) {
			t.Run(fmt.Sprintf("%s at 0x%02x", ct.Name, addr), func(t *testing.T) {
				looked++
				var ahead time.Duration
				w := &sim.World{Now: func() time.Time { return time.Now().Add(ahead) }}
				chip := &watched{I2CChip: ct.New(w, "x", nil).(sim.I2CChip)}
				require.NoError(t, w.AddI2C("i2c-1").Add(addr, chip))
				ahead = 10 * time.Second // its start is over
				o := siteOf(w)
				o.Sleep = func(d time.Duration) { ahead += d }
				r, err := Scan(t.Context(), o)
				require.NoError(t, err)
				c := only(t, r, addr)
				if c == nil || c.Chip == "" {
					require.NotEmpty(t, unasked[ct.Name], "not named, and no reason is listed: %+v", c)
					o.Ask = []uint16{addr}
					r, err = Scan(t.Context(), o)
					require.NoError(t, err)
					c = only(t, r, addr)
				}
				require.NotNil(t, c)
				require.Equal(t, ct.Name, c.Chip, c.Why)
				for _, b := range chip.written {
					require.True(t, harmless(addr, b), "%x was written", b)
				}
				require.Contains(t, c.Config, "driver: "+ct.Name)
				require.Contains(t, c.Config, fmt.Sprintf("address: 0x%02x", addr))
			})
		}
	}
	require.Greater(t, looked, 2)
}

func only(t *testing.T, r *Result, addr uint16) *Chip {
	require.Len(t, r.I2C, 1)
	require.Empty(t, r.I2C[0].Note)
	for i := range r.I2C[0].Chips {
		require.Equal(t, addr, r.I2C[0].Chips[i].Address)
		return &r.I2C[0].Chips[i]
	}
	return nil
}

// TestUnchanged: a driver that is reading a chip reads on as before a scan between its polls, without opening it anew.
func TestUnchanged(t *testing.T) {
	for _, ct := range sim.ChipTypes() {
		if ct.Bus != drivers.I2C {
			continue
		}
		t.Run(ct.Name, func(t *testing.T) {
			var ahead time.Duration // a world in which the chip has started long ago, and waiting costs nothing
			w := &sim.World{Now: func() time.Time { return time.Now().Add(ahead) }}
			addr := ct.Address
			if ct.Name == "lm75" { // the driver's default is another
				addr = 0x48
			}
			require.NoError(t, w.AddI2C("i2c-1").Add(addr, ct.New(w, "x", nil).(sim.I2CChip)))
			ahead = 10 * time.Second
			sleep := func(d time.Duration) { ahead += d }
			var opts drivers.Options
			for _, f := range all.Factories {
				if f.Name == ct.Name || slices.Contains(f.Aliases, ct.Name) {
					opts = f.New(ct.Name)
				}
			}
			if opts == nil {
				t.Fatalf("no driver %s", ct.Name)
			}
			// The bus is known to the driver by its handle alone.
			_ = opts.Check()
			o, err := w.Open(drivers.Bus{Kind: drivers.I2C, Name: "sim:i2c-1"})
			require.NoError(t, err)
			s, err := opts.Open(t.Context(), drivers.Env{I2C: o.I2C, Timeout: time.Second, Shared: &drivers.Shared{}, Sleep: sleep})
			require.NoError(t, err)
			ahead += 10 * time.Second
			before, err := s.Read(t.Context())
			require.NoError(t, err)
			_, err = Scan(t.Context(), siteOf(w))
			require.NoError(t, err)
			ahead += 10 * time.Second
			after, err := s.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

// register is a chip that answers every read, and takes every byte for an order.
type register struct {
	read    func(n int) []byte
	written [][]byte
}

func (c *register) I2C(w []byte, n int) ([]byte, bool) {
	if len(w) > 0 {
		c.written = append(c.written, slices.Clone(w))
	}
	return c.read(n), true
}
func (c *register) Reset() {}

// TestForeignChips: chips that would take a question for an order are not written to.
func TestForeignChips(t *testing.T) {
	level := byte(0x80)
	steady := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			level ^= 1 // the last bit is never still
			b[i] = level
		}
		return b
	}
	same := func(v byte) func(int) []byte {
		return func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = v
			}
			return b
		}
	}
	for name, c := range map[string]struct {
		addr uint16
		read func(int) []byte
	}{
		"pcf8591": {0x48, steady}, "pcf8591 at the top": {0x4F, steady}, "tca9548": {0x76, same(0x05)}, "tca9548 idle": {0x77, same(0)},
		"mcp4725": {0x62, same(0x12)}, "pca9633": {0x62, same(0)}, "pcf8574": {0x23, same(0xF0)}, "expander": {0x20, same(0x0F)},
		"eeprom": {0x50, same(0xFF)}, "clock": {0x68, same(0x15)}, "opt3001": {0x45, same(0xC8)},
	} {
		t.Run(name, func(t *testing.T) {
			w := &sim.World{}
			chip := &register{read: c.read}
			require.NoError(t, w.AddI2C("i2c-1").Add(c.addr, chip))
			r, err := Scan(t.Context(), siteOf(w))
			require.NoError(t, err)
			require.NotNil(t, only(t, r, c.addr))
			for _, b := range chip.written { // a register chip's pointer may move
				require.True(t, name == "opt3001" && harmless(c.addr, b) && len(b) == 1, "%x was written", b)
			}
		})
	}
}

// TestNotRead: two addresses are not even read from.
func TestNotRead(t *testing.T) {
	w := &sim.World{}
	for _, a := range []uint16{0x0C, 0x69} {
		require.NoError(t, w.AddI2C("i2c-1").Add(a, &register{read: func(int) []byte { t.Error("read"); return nil }}))
	}
	r, err := Scan(t.Context(), siteOf(w))
	require.NoError(t, err)
	require.Empty(t, r.I2C[0].Chips)
}

// TestOwned: what a running agent has open is not opened.
func TestOwned(t *testing.T) {
	w := &sim.World{}
	w.AddI2C("i2c-1")
	o := siteOf(w)
	o.Agent, o.Owned = 12, []Owned{{Bus: "sim:i2c-1", Sensor: "cellar", Driver: "bme280", State: "ok"}}
	o.Open = func(context.Context, drivers.Bus) (*hostbus.Handle, error) {
		t.Error("opened")
		return nil, drivers.ErrGone
	}
	r, err := Scan(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, "cellar", r.I2C[0].Users[0].Sensor)
	require.Equal(t, "in use, so it was not touched", r.I2C[0].Note)
}

// answering is a chip on SPI that answers with these bytes, and remembers what was sent to it.
type answering struct {
	answer []byte
	sent   []byte
}

func (c *answering) SPI(w []byte) []byte {
	c.sent = append(c.sent, w...)
	r := make([]byte, len(w))
	copy(r, c.answer)
	return r
}
func (c *answering) Reset() {}

// TestSPI: an SPI device is asked only when it is named and nobody has it; a BME280 is known by its identity, a MAX31855 by its
// answer, with a broken thermocouple too, and nothing else is taken for one.
func TestSPI(t *testing.T) {
	w := &sim.World{}
	broken := sim.NewMAX31855(w, "x", nil, nil)
	broken.Fault = 1
	chips := map[string]struct {
		chip sim.SPIChip
		want string
		note string
	}{
		"good":    {sim.NewMAX31855(w, "x", nil, nil), "max31855", "temperature 200 Cel, junction 25 Cel"},
		"broken":  {broken, "max31855", "junction 25 Cel, max31855: the answer failed its check: OC: the thermocouple is open"},
		"bme280":  {sim.NewBME280(w, "x", sim.Environment{}), "bme280", "identity 0x60"},
		"bmp280":  {sim.NewBMP280(w, "x", sim.Environment{}), "bmp280", "identity 0x58"},
		"adc":     {sim.NewMCP3008(w, "x", 3.3, [8]func(time.Time) float64{}), "", "it is no BME280, BMP280 or MAX31855"},
		"nobody":  {&answering{}, "", "it is no BME280, BMP280 or MAX31855"},
		"pulled":  {&answering{answer: []byte{0xFF, 0xFF, 0xFF, 0xFF}}, "", "it is no BME280, BMP280 or MAX31855"},
		"letters": {&answering{answer: []byte("spi!")}, "", "it is no BME280, BMP280 or MAX31855"},
	}
	for name, c := range chips {
		w.AddSPI(name, c.chip)
	}
	r, err := Scan(t.Context(), siteOf(w))
	require.NoError(t, err)
	require.Len(t, r.SPI, len(chips))
	for _, d := range r.SPI {
		require.Empty(t, d.Chip+d.Config)
		require.Len(t, d.Choices, 5)
	}
	require.Empty(t, chips["nobody"].chip.(*answering).sent, "not named, not asked")
	for name, c := range chips {
		o := siteOf(w)
		o.AskSPI = []string{"sim:" + name}
		r, err := Scan(t.Context(), o)
		require.NoError(t, err)
		for _, d := range r.SPI {
			if d.Name != "sim:"+name {
				require.Empty(t, d.Chip)
				continue
			}
			require.Equal(t, c.want, d.Chip, d.Note)
			require.Contains(t, d.Note, c.note)
			require.Equal(t, c.want != "", d.Config != "" && len(d.Choices) == 0)
		}
		if a, ok := c.chip.(*answering); ok {
			require.Equal(t, []byte{0xD0, 0, 0, 0, 0, 0}, a.sent)
			a.sent = nil
		}
		o.Owned = []Owned{{Bus: "sim:" + name, Sensor: "tank"}}
		o.Open = func(context.Context, drivers.Bus) (*hostbus.Handle, error) {
			t.Error("opened")
			return nil, drivers.ErrGone
		}
		r, err = Scan(t.Context(), o)
		require.NoError(t, err)
		require.Contains(t, r.SPI[slices.IndexFunc(r.SPI, func(d Device) bool { return d.Name == "sim:"+name })].Note, "in use")
	}
}

// TestTree looks at a machine made of files: adapters, empty 8250 ports, a screen's bus, a chip of the kernel's.
func TestTree(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		p := filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	link := func(to, path string) {
		p := filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.Symlink(to, p))
	}
	usb := "sys/devices/platform/usb1/1-1"
	write(usb+"/idVendor", "0403\n")
	write(usb+"/idProduct", "6001\n")
	write(usb+"/manufacturer", "FTDI\n")
	write(usb+"/product", "FT232R \x1b[31mUSB\n")
	write(usb+"/serial", "A50285BI\n")
	write(usb+"/1-1:1.0/ttyUSB0/tty/ttyUSB0/dev", "188:0\n")
	link("../..", usb+"/1-1:1.0/ttyUSB0/tty/ttyUSB0/device") // to …/1-1:1.0/ttyUSB0
	link("../../devices/platform/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0", "sys/class/tty/ttyUSB0")
	write("sys/bus/usb-serial/drivers/ftdi_sio/x", "")
	link("../../../../../../bus/usb-serial/drivers/ftdi_sio", usb+"/1-1:1.0/ttyUSB0/driver")
	write("dev/ttyUSB0", "")
	link("../../ttyUSB0", "dev/serial/by-path/platform-usb-0:1.1:1.0-port0")
	link("../../ttyUSB0", "dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0")
	for i, kind := range []string{"0", "4"} {
		write(fmt.Sprintf("sys/class/tty/ttyS%d/type", i), kind+"\n")
		write(fmt.Sprintf("sys/class/tty/ttyS%d/device/x", i), "")
	}
	for _, n := range []string{"ttySC0", "ttyAMA10", "ttyAMA2"} {
		write("sys/class/tty/"+n+"/device/x", "")
		write("dev/"+n, "")
	}
	write("sys/class/tty/tty1/dev", "4:1")
	write("sys/class/tty/console/active", "tty1 ttyAMA2\n")
	write("dev/i2c-1", "")
	write("dev/i2c-2", "")
	write("sys/class/i2c-dev/i2c-1/name", "bcm2835 (i2c@7e804000)\n")
	write("sys/class/i2c-dev/i2c-2/name", "i915 gmbus dpb\n")
	write("sys/bus/i2c/devices/1-0068/name", "ds3231\n")
	write("sys/bus/i2c/drivers/rtc-ds1307/x", "")
	link("../../drivers/rtc-ds1307", "sys/bus/i2c/devices/1-0068/driver")
	write("dev/spidev0.0", "")
	write("sys/bus/w1/devices/28-0316a2798bff/w1_slave", "")
	write("sys/bus/w1/devices/26-0316a2798bfe/x", "")
	write("sys/bus/w1/devices/w1_bus_master1/x", "")

	w := &sim.World{}
	require.NoError(t, w.AddI2C("i2c-1").Add(0x68, &register{read: func(int) []byte { t.Error("read"); return nil }}))
	opened := []string{}
	o := siteOf(w)
	o.Root, o.Sim = root, nil
	inner := o.Open
	o.Open = func(ctx context.Context, b drivers.Bus) (*hostbus.Handle, error) {
		opened = append(opened, b.Name)
		return inner(ctx, drivers.Bus{Kind: b.Kind, Name: "sim:i2c-1"})
	}
	o.Holders = func(path string) ([]hostbus.Holder, error) {
		if filepath.Base(path) == "ttySC0" {
			return []hostbus.Holder{{PID: 77, Name: "picocom"}}, nil
		}
		return nil, nil
	}
	o.Agent, o.Owned = 12, []Owned{{Bus: "/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0", Sensor: "boiler", Driver: "modbus", State: "ok"}}
	r, err := Scan(t.Context(), o)
	require.NoError(t, err)
	names := []string{}
	for _, p := range r.Serial {
		names = append(names, p.Name)
	}
	require.Equal(t, []string{"/dev/ttyAMA2", "/dev/ttyAMA10", "/dev/ttyS1", "/dev/ttySC0", "/dev/ttyUSB0"}, names)
	p := r.Serial[4]
	require.Equal(t, []string{"/dev/serial/by-path/platform-usb-0:1.1:1.0-port0"}, p.ByPath)
	require.Equal(t, "0403:6001 A50285BI FTDI FT232R  [31mUSB ftdi_sio", p.Vendor+":"+p.Product+" "+p.Serial+" "+p.Text+" "+p.Driver)
	require.Equal(t, "boiler", p.Users[0].Sensor)
	require.Contains(t, p.Config, p.ByPath[0])
	require.Contains(t, r.Serial[0].Note, "console")
	require.Contains(t, r.Serial[2].Note, "there is no /dev/ttyS1")
	require.Equal(t, "process 77 (picocom)", r.Serial[3].Users[0].String())
	require.Equal(t, []string{"/dev/i2c-1"}, opened, "no serial port, no screen")
	require.Equal(t, []Chip{{Address: 0x68, Why: "ds3231, in use by the kernel's driver rtc-ds1307"}}, r.I2C[0].Chips)
	require.Contains(t, r.I2C[1].Note, "--bus /dev/i2c-2")
	require.Equal(t, "/dev/spidev0.0", r.SPI[0].Name)
	require.Len(t, r.W1, 2)
	require.Empty(t, r.W1[0].Chip)
	require.Equal(t, "ds18b20", r.W1[1].Chip)
	require.Equal(t, "- {name: ds18b20-0316a2798bff, driver: ds18b20, bus: /sys/bus/w1/devices, id: 28-0316a2798bff}", r.W1[1].Config)
}
