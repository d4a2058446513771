package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/cmd/cmdline"
	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/ds18b20"
	"homeward/drivers/scan"
	"homeward/drivers/sim"
)

func scanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "List ports, buses and the chips on them, each with its configuration",
		Long: `List serial ports under the names that stay, chips on I2C buses with a guess at what they are,
SPI devices and 1-Wire thermometers; each with the lines of configuration that would read it. Nothing
that is found is changed, and no serial port is opened.

Where the gateway runs, the buses that its agent has open are not touched: its sensors are listed from its
status. With --modbus, each unit on a serial line is asked for one register; this takes minutes,
and Ctrl-C ends it.`,
		Example: `  homeward scan
  homeward scan --json --bus /dev/i2c-1
  homeward scan --modbus /dev/ttyUSB0 --line 9600-8N1,19200-8E1 --units 1-32`,
		Args: cmdline.NoArgs,
	}
	path := configFlag(cmd)
	state := cmd.Flags().String("state", "", "state folder of the gateway that may be running (default: that of the configuration)")
	buses := cmd.Flags().StringSlice("bus", nil, "look at these ports and buses alone")
	ask := cmd.Flags().StringSlice("ask", nil, "I2C addresses and SPI devices to ask although another chip could take the question for an order")
	port := cmd.Flags().String("modbus", "", "serial port on which to look for Modbus units, and nothing else")
	lines := cmd.Flags().StringSlice("line", []string{"19200-8E1", "9600-8N1"}, "with --modbus: line settings to try")
	units := cmd.Flags().String("units", "1-247", "with --modbus: units to ask")
	timeout := cmd.Flags().Duration("timeout", 300*time.Millisecond, "with --modbus: how long to wait for each")
	pause := cmd.Flags().Duration("pause", 20*time.Millisecond, "with --modbus: pause between requests")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := scan.Options{Buses: *buses}
		for _, a := range *ask {
			if strings.HasPrefix(a, "/") || strings.HasPrefix(a, sim.Prefix) {
				o.AskSPI = append(o.AskSPI, a)
				continue
			}
			n, err := strconv.ParseUint(a, 0, 7)
			if err != nil {
				return cmdline.Usage(fmt.Errorf("--ask %q: want I2C addresses such as 0x48, or SPI devices such as /dev/spidev0.0", a))
			}
			o.Ask = append(o.Ask, uint16(n))
		}
		if os.Getenv(sim.Env) != "" {
			o.Sim, o.SimPath = sim.List, sim.PortPath
		}
		folder, cfg, err := scanState(*path, cmd.Flags().Changed("config"), *state)
		if err != nil {
			return err
		}
		if err := askAgent(cmd.Context(), folder, cfg, &o); err != nil {
			return err
		}
		progress := cmd.ErrOrStderr()
		live := terminal(progress)
		if *port != "" {
			m := scan.ModbusOptions{Port: *port, Timeout: *timeout, Pause: *pause}
			if m.From, m.To, err = unitRange(*units); err != nil {
				return cmdline.Usage(err)
			}
			for _, l := range *lines {
				line, err := drivers.ParseLine(l)
				if err != nil || line.DataBits != 8 {
					return cmdline.Usage(fmt.Errorf("--line %q: want settings such as 9600-8N1,19200-8E1", l))
				}
				m.Lines = append(m.Lines, line)
			}
			if m.Timeout < time.Millisecond || m.Timeout > time.Minute || m.Pause < 0 || m.Pause > 10*time.Second {
				return cmdline.Usage(errors.New("--timeout: want 1ms to 1m; --pause: 0 to 10s"))
			}
			if live {
				m.Step = func(line drivers.Line, unit, found int) {
					fmt.Fprintf(progress, "\r\x1b[K%v: unit %d of %d, %d found", line, unit, m.To, found)
				}
			}
			u, err := scan.Modbus(cmd.Context(), o, m)
			if live {
				fmt.Fprint(progress, "\r\x1b[K")
			}
			if errors.Is(err, context.Canceled) {
				err = errors.New("interrupted: what was found until then is above")
			}
			return errors.Join(printUnits(cmd.OutOrStdout(), u, *asJSON), err)
		}
		if live {
			o.Step = func(what string) { fmt.Fprintf(progress, "\r\x1b[K%s …", what) }
		}
		r, err := scan.Scan(cmd.Context(), o)
		if live {
			fmt.Fprint(progress, "\r\x1b[K")
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), r)
		}
		return printScan(cmd.OutOrStdout(), r)
	}
	return cmd
}

// scanState is where an agent may be running, and its configuration, nil where there is none. A scan needs no configuration:
// before there is one, it is the first thing done.
func scanState(path string, given bool, state string) (string, *config.Config, error) {
	if state != "" {
		return state, nil, nil
	}
	cfg, err := config.Load(path, all.Factories)
	switch {
	case err == nil:
		return cfg.State, cfg, nil
	case given:
		return "", nil, cmdline.Usage(err)
	case os.Getenv("HOMEWARD_STATE") != "":
		return os.Getenv("HOMEWARD_STATE"), nil, nil
	}
	return "/var/lib/homeward", nil, nil
}

// askAgent learns what a running agent has open, so that it is left alone.
func askAgent(ctx context.Context, state string, cfg *config.Config, o *scan.Options) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var s status.Status
	err := status.Get(ctx, agent.SocketPath(state), "/status.json", &s)
	if errors.Is(err, status.ErrNotRunning) {
		return nil
	} else if err != nil {
		return fmt.Errorf("what the running agent has open is not known, so nothing is touched: %w", err)
	}
	o.Agent = s.PID
	for _, x := range s.Sensors {
		if x.State != "disabled" {
			o.Owned = append(o.Owned, scan.Owned{Bus: x.Bus, Sensor: x.Name, Driver: x.Driver, State: x.State, Device: w1Device(cfg, x.Name)})
		}
	}
	return nil
}

// w1Device is which of a 1-Wire bus's devices a sensor is configured to read.
func w1Device(cfg *config.Config, sensor string) string {
	if cfg != nil {
		for _, s := range cfg.Sensors {
			if o, ok := s.Options.(*ds18b20.Options); ok && s.Name == sensor {
				return o.ID
			}
		}
	}
	return ""
}

func unitRange(s string) (from, to int, err error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		b = a
	}
	from, err1 := strconv.Atoi(a)
	to, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil || from < 1 || to > 247 || from > to {
		return 0, 0, fmt.Errorf("--units %q: want a range within 1-247", s)
	}
	return from, to, nil
}

func printScan(w io.Writer, r *scan.Result) error {
	var b strings.Builder
	more := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "    %-9s %s\n", label, text)
		}
	}
	users := func(list []scan.User) {
		for _, u := range list {
			more("in use", u.String())
		}
	}
	head := func(what string, n int) {
		if n == 0 {
			what += ": none"
		}
		fmt.Fprintln(&b, what)
	}
	head("Serial ports", len(r.Serial))
	for _, p := range r.Serial {
		fmt.Fprintf(&b, "  %s\n", p.Name)
		for _, n := range p.ByPath {
			more("by path", n)
		}
		for _, n := range p.ByID {
			more("by id", n)
		}
		if p.Vendor != "" {
			text := p.Vendor + ":" + p.Product + " " + p.Text
			if p.Serial != "" {
				text += ", serial number " + p.Serial
			}
			more("usb", text)
		}
		more("driver", p.Driver)
		users(p.Users)
		more("note", p.Note)
		more("config", p.Config)
	}
	head("\nI2C buses", len(r.I2C))
	for _, i := range r.I2C {
		fmt.Fprintf(&b, "  %s", i.Name)
		if i.Adapter != "" {
			fmt.Fprintf(&b, " (%s)", i.Adapter)
		}
		if i.Note == "" && len(i.Chips) == 0 {
			b.WriteString(": nothing answers")
		}
		b.WriteByte('\n')
		users(i.Users)
		more("note", i.Note)
		for _, c := range i.Chips {
			name := c.Chip
			switch {
			case name == "":
				name = "unknown"
			case !c.Sure:
				name = "probably " + name
			}
			fmt.Fprintf(&b, "    0x%02x      %s: %s\n", c.Address, name, c.Why)
			more("config", c.Config)
		}
	}
	for _, d := range []struct {
		what string
		list []scan.Device
	}{{"\nSPI devices", r.SPI}, {"\n1-Wire devices", r.W1}} {
		head(d.what, len(d.list))
		for _, x := range d.list {
			fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(x.Name+" "+x.Chip))
			users(x.Users)
			more("note", x.Note)
			more("config", x.Config)
			for _, c := range x.Choices {
				more(c.Driver, c.Config)
			}
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "\nnote: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printUnits(w io.Writer, u *scan.Units, asJSON bool) error {
	if asJSON {
		return printJSON(w, u)
	}
	for _, x := range u.Found {
		fmt.Fprintf(w, "unit %d at %s: %s\n    config    %s\n", x.Unit, x.Line, x.Answer, x.Config)
	}
	for _, l := range u.Garbled {
		fmt.Fprintf(w, "something answered at %s that is no Modbus: another setting, or noise\n", l)
	}
	_, err := fmt.Fprintf(w, "%d units found, %d requests on %s\n", len(u.Found), u.Asked, u.Port)
	return err
}
