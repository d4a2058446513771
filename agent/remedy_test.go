package agent

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/hostbus"
)

// Over every kind of bus and class of error: the code, and a remedy that speaks of that bus and of no other.
func TestRemedies(t *testing.T) {
	join := func(errs ...error) error { return fmt.Errorf("x: %w", errors.Join(errs...)) }
	wrong := map[drivers.BusKind][]string{ // what has nothing to do with such a bus
		drivers.Serial: {"url", "raspi-config", "pull-up", "chip", "unit_id"},
		drivers.TCP:    {"homeward scan", "A and B", "parity", "termination", "raspi-config", "pull-up", "chip", "plug it in"},
		drivers.I2C:    {"A and B", "parity", "termination", "url", "chip select", "unit_id", "1-Wire", "4.7"},
		drivers.SPI:    {"A and B", "parity", "termination", "url", "address", "pull-up", "unit_id", "1-Wire"},
		drivers.W1Bus:  {"A and B", "parity", "termination", "url", "chip select", "unit_id", "SPI", "I2C"},
	}
	for _, c := range []struct {
		name string
		n    int
		err  error
		code Code
		want map[drivers.BusKind]string
	}{
		{"gone", 0, join(drivers.ErrGone), CodeSensorGone, map[drivers.BusKind]string{
			drivers.Serial: "homeward scan lists", drivers.TCP: "host and port in url", drivers.I2C: "switch I2C on", drivers.SPI: "switch SPI on", drivers.W1Bus: "switch 1-Wire on",
		}},
		{"not to be found when opened", 0, &busError{join(drivers.ErrGone)}, CodeSensorGone, map[drivers.BusKind]string{drivers.Serial: "plug it in"}},
		{"given up for what came", 0, join(drivers.ErrGone, drivers.ErrCheck), CodeSensorGone, map[drivers.BusKind]string{drivers.TCP: "the port in url"}},
		{"not such a bus", 0, &busError{join(drivers.ErrWrong)}, CodeSensorGone, map[drivers.BusKind]string{
			drivers.Serial: "name a serial port", drivers.TCP: "tcp://host:port", drivers.I2C: "name an I2C bus", drivers.SPI: "name an SPI device", drivers.W1Bus: "name the folder",
		}},
		{"not to be opened", 0, &busError{errors.New("permission denied")}, CodeSensorGone, map[drivers.BusKind]string{
			drivers.Serial: "group dialout", drivers.I2C: "group i2c", drivers.SPI: "group spi", drivers.W1Bus: "access to the folder",
		}},
		{"another instrument", 0, join(drivers.ErrWrong), CodeSensorWrong, map[drivers.BusKind]string{
			drivers.I2C: "homeward scan names", drivers.SPI: "this chip select", drivers.W1Bus: "configure id",
		}},
		{"nothing", 0, join(drivers.ErrTimeout), CodeSensorSilent, map[drivers.BusKind]string{
			drivers.Serial: "A and B swapped?", drivers.TCP: "unit_id", drivers.I2C: "holds it low", drivers.SPI: "chip select", drivers.W1Bus: "the configured id: homeward scan lists",
		}},
		{"something, but no answer", 0, join(drivers.ErrTimeout, drivers.ErrCheck), CodeSensorSilent, map[drivers.BusKind]string{drivers.Serial: "rate and parity"}},
		{"a wrong answer", 0, join(drivers.ErrCheck), CodeSensorFailing, map[drivers.BusKind]string{
			drivers.Serial: "pattern", drivers.TCP: "pattern", drivers.I2C: "pull-up", drivers.W1Bus: "pull-up",
		}},
		{"refused", 0, join(drivers.ErrRefuse), CodeSensorFailing, map[drivers.BusKind]string{drivers.Serial: "manual", drivers.TCP: "unit_id"}},
		{"no value", 0, join(drivers.ErrValue), CodeSensorFailing, map[drivers.BusKind]string{drivers.Serial: "sky"}},
		{"some channels", 1, join(drivers.ErrCheck), CodeSensorFailing, map[drivers.BusKind]string{drivers.I2C: "inputs"}},
		{"anything else", 0, errors.New("input/output error"), CodeSensorFailing, nil},
	} {
		for _, kind := range busKinds {
			t.Run(c.name+" on "+string(kind), func(t *testing.T) {
				code, remedy := sensorProblem(kind, c.n, c.err)
				require.Equal(t, c.code, code)
				require.NotEmpty(t, remedy)
				require.Contains(t, remedy, c.want[kind])
				for _, w := range wrong[kind] {
					require.NotContains(t, remedy, w)
				}
			})
		}
	}
	for i, kinds := range remedies {
		for k, remedy := range kinds {
			require.Greater(t, len(remedy), 20, "%d on %s", i, busKinds[k])
		}
	}
	code, remedy := sensorProblem("new", 0, join(drivers.ErrTimeout)) // no panic
	require.Equal(t, CodeSensorSilent, code)
	require.NotEmpty(t, remedy)
}

// Nobody answered: that is silence, whichever way an adapter says it, and the chip is asked again soon.
func TestNotAcknowledged(t *testing.T) {
	for name, err := range map[string]error{
		"simulated": fmt.Errorf("sim: %w", syscall.ENXIO), "data": fmt.Errorf("sim: %w", syscall.EREMOTEIO),
		"library": errors.New("sht4x: sysfs-i2c: remote I/O error"), "driver's text after": errors.New("sysfs-i2c: no such device or address: x"),
	} {
		code, remedy := sensorProblem(drivers.I2C, 0, err)
		require.Equal(t, CodeSensorSilent, code, name)
		require.Equal(t, "check its wiring, power and address: homeward scan lists what answers on the bus", remedy)
		code, _ = sensorProblem(drivers.Serial, 0, err)
		require.Equal(t, CodeSensorFailing, code, name)
		code, _ = sensorProblem(drivers.I2C, 1, err)
		require.Equal(t, CodeSensorFailing, code, "other channels came")
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		asked := 0
		quiet := &fakeOptions{bus: drivers.Bus{Kind: drivers.I2C, Name: "fake"}, read: func(context.Context) ([]drivers.Reading, error) {
			asked++
			return nil, fmt.Errorf("fake: %w", syscall.ENXIO)
		}}
		well := &fakeOptions{bus: drivers.Bus{Kind: drivers.I2C, Name: "fake"}, read: func(context.Context) ([]drivers.Reading, error) { return value(1), nil }}
		r.apply(r.ctx, []config.Sensor{fakeConfig("absent", 10*time.Second, quiet), fakeConfig("there", time.Second, well)}, nil)
		time.Sleep(time.Minute)
		require.Equal(t, "silent", r.status()[0].State)
		require.Equal(t, []string{"sensor.silent absent"}, r.codes())
		r.end()
		require.Greater(t, asked, 20, "it costs its neighbours nothing, so it is found within two seconds")
	})
}

// What an installer gets wrong, with the real drivers and buses: what is said helps.
func TestRealRemedies(t *testing.T) {
	open := func(text string) error {
		c, err := config.Parse("h.yaml", []byte("gateway: g\nhome: {organization: a, project: p, product: q, url: \"tls://h\"}\nsensors: [{name: s, "+text+"}]\n"), all.Factories)
		require.NoError(t, err)
		_, err = hostbus.Open(t.Context(), c.Sensors[0].Options.Bus())
		require.Error(t, err)
		code, remedy := sensorProblem(c.Sensors[0].Options.Bus().Kind, 0, &busError{err})
		require.Equal(t, CodeSensorGone, code)
		return fmt.Errorf("%w → %s", err, remedy)
	}
	require.ErrorContains(t, open("driver: nmea, port: /etc/passwd"), "it is not a serial port → name a serial port in port")
	require.ErrorContains(t, open("driver: nmea, port: /dev/none"), "→ plug it in")
	require.ErrorContains(t, open("driver: nmea, url: \"tcp://127.0.0.1:1\""), "→ check the device's power and network cable, and host and port in url")
	require.ErrorContains(t, open("driver: sht4x, bus: /dev/i2c-99"), "→ switch I2C on")
	require.ErrorContains(t, open("driver: sht4x, bus: /etc/passwd"), "→ name an I2C bus")
	require.ErrorContains(t, open("driver: mcp3008, bus: /dev/spidev9.9, channels: [{name: a, input: 0}]"), "→ switch SPI on")
	require.ErrorContains(t, open("driver: ds18b20, bus: /none"), "→ switch 1-Wire on")
	require.ErrorContains(t, open("driver: ds18b20, bus: /etc/passwd"), "→ name the folder")
}

func TestCheckConfigCounts(t *testing.T) {
	require.Equal(t, "1 sensor", checkConfig(&config.Config{Sensors: make([]config.Sensor, 1)})[0].Text)
	require.Equal(t, "0 sensors", checkConfig(&config.Config{})[0].Text)
	c := &config.Config{Sensors: make([]config.Sensor, 2), Warnings: []config.Warning{{Path: "fleet", Text: "accepted"}}}
	lines := checkConfig(c)
	require.Equal(t, "2 sensors", lines[0].Text)
	require.Equal(t, "fleet: accepted", lines[1].Text)
}
