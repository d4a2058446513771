// Command flasher writes an operating system's image to a card and makes it ready for a
// gateway's first boot. It promises that a card is only called ready after all of it was read
// back, that no card without that looks bootable, and that no other disk is touched. A run
// that fails after its first write leaves a card that must be written again.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const usageText = `Write an image to a card and make it ready for first boot.

  scripts/flash IMAGE DEVICE [flags]          IMAGE: .img, .img.xz, .img.gz or .img.zst
  scripts/flash IMAGE --image-only OUT [flags]
  scripts/flash --list

Example:
  sudo scripts/flash raspios-lite.img.xz /dev/sdb --sha256 raspios-lite.img.xz.sha256 \
    --package homeward_0.3.0_arm64.deb --config homeward.yaml \
    --file password=/etc/homeward/password --file ca.pem=/etc/homeward/ca.pem:0644 \
    --hostname gw-0017 --user tech --ssh-key ~/.ssh/id_ed25519.pub --enable i2c,spi

Flags:
`

// usageError ends with exit code 2.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

// world is what the program touches, injected by tests.
type world struct {
	host   host
	open   func(path string) (Device, error)
	stdin  io.Reader
	out    io.Writer
	err    io.Writer
	tty    bool // out is a terminal
	ttyIn  bool
	search []string // where a homeward binary may be
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	w := &world{
		host:  realHost(),
		open:  func(p string) (Device, error) { return openBlock(p) },
		stdin: os.Stdin, out: os.Stdout, err: os.Stderr,
		tty: isTerminal(os.Stdout), ttyIn: isTerminal(os.Stdin),
		search: []string{"bin/homeward", "homeward"},
	}
	os.Exit(w.run(ctx, os.Args[1:]))
}

func (w *world) run(ctx context.Context, args []string) int {
	err := w.main(ctx, args)
	var u usageError
	var s spoiled
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &u):
		fmt.Fprintln(w.err, err)
		return 2
	case errors.As(err, &s):
		what := err.Error()
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			what = "stopped"
		}
		fmt.Fprintln(w.err, what+": "+s.hint)
	case ctx.Err() != nil:
		fmt.Fprintln(w.err, "stopped; nothing was written")
	default:
		fmt.Fprintln(w.err, err)
	}
	return 1
}

type options struct {
	set                       Settings
	sum, homeward, fixed, out string
	yes, dry, list            bool
	files, enable, keyFiles   multi
	wifiPass, hashFile        string
	image, device             string
}

type multi []string

func (m *multi) String() string     { return strings.Join(*m, ",") }
func (m *multi) Set(s string) error { *m = append(*m, s); return nil }

func (w *world) parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("flash", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&o.list, "list", false, "list the disks that would be accepted")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.dry, "dry-run", false, "look at everything, write nothing")
	f.StringVar(&o.out, "image-only", "", "write the prepared image to this new `FILE` instead of a card; needs no root")
	f.StringVar(&o.sum, "sha256", "", "published SHA-256 of the image file: 64 hex digits or a `FILE` that holds them")
	f.StringVar(&o.fixed, "force-fixed", "", "accept this disk although it is not removable: repeat its `NAME`, as sdc")
	f.StringVar(&o.set.Package, "package", "", "`FILE`.deb to install at first boot")
	f.StringVar(&o.set.Config, "config", "", "configuration `FILE`, checked first; becomes "+configDest)
	f.StringVar(&o.homeward, "homeward", "", "homeward `PROGRAM` of this machine that checks --config (default: bin/homeward, or the one on the path)")
	f.Var(&o.files, "file", "`SRC=DEST[:MODE]`: a further file, mode 0600 unless said; repeatable")
	f.StringVar(&o.set.Hostname, "hostname", "", "host `NAME`")
	f.StringVar(&o.set.WifiName, "wifi", "", "wifi `SSID`")
	f.StringVar(&o.wifiPass, "wifi-password-file", "", "`FILE` with the wifi passphrase (only the key derived from it goes on the card)")
	f.StringVar(&o.set.Country, "wifi-country", "", "`CC` whose radio rules apply, as DE")
	f.StringVar(&o.set.User, "user", "", "first user's `NAME`")
	f.StringVar(&o.hashFile, "user-hash-file", "", "`FILE` with the user's password as openssl passwd -6 prints it (default: no password, keys only)")
	f.Var(&o.keyFiles, "ssh-key", "public key `FILE` that may log in by ssh; repeatable")
	f.Var(&o.enable, "enable", "switch on `i2c,spi,w1,uart` in config.txt")
	var rest []string
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				fmt.Fprint(w.out, usageText)
				f.SetOutput(w.out)
				f.PrintDefaults()
				return nil, err
			}
			return nil, usageError{fmt.Errorf("%w: see scripts/flash --help", err)}
		}
		if args = f.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	want := 2
	if o.out != "" {
		want = 1
	}
	if o.list {
		want = 0
	}
	if len(rest) != want {
		return nil, usageError{fmt.Errorf("%d arguments, want %s: see scripts/flash --help", len(rest), []string{"none", "IMAGE", "IMAGE and DEVICE"}[want])}
	}
	if want > 0 {
		o.image = rest[0]
	}
	if want > 1 {
		o.device = rest[1]
	}
	if err := o.fill(); err != nil {
		return nil, usageError{err}
	}
	return o, nil
}

func (o *options) fill() error {
	s := &o.set
	for _, a := range o.files {
		p, err := parsePut(a)
		if err != nil {
			return err
		}
		s.Files = append(s.Files, p)
	}
	for _, e := range o.enable {
		for _, one := range strings.Split(e, ",") {
			s.Enable = append(s.Enable, strings.TrimSpace(one))
		}
	}
	for _, k := range o.keyFiles {
		b, err := slurp(k)
		if err != nil {
			return fmt.Errorf("--ssh-key: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				s.Keys = append(s.Keys, line)
			}
		}
		if len(s.Keys) == 0 {
			return fmt.Errorf("--ssh-key %s: no key in it", k)
		}
	}
	if o.hashFile != "" {
		b, err := slurp(o.hashFile)
		if err != nil {
			return fmt.Errorf("--user-hash-file: %w", err)
		}
		if s.Hash = strings.TrimSpace(string(b)); s.Hash == "" {
			return fmt.Errorf("--user-hash-file %s: empty", o.hashFile)
		}
	}
	if (s.WifiName == "") != (o.wifiPass == "") || (s.WifiName == "") != (s.Country == "") {
		return errors.New("--wifi, --wifi-password-file and --wifi-country go together")
	}
	if s.WifiName != "" {
		b, err := slurp(o.wifiPass)
		if err != nil {
			return fmt.Errorf("--wifi-password-file: %w", err)
		}
		if s.WifiKey, err = wifiKey(s.WifiName, strings.TrimRight(string(b), "\r\n")); err != nil {
			return err
		}
	}
	return s.check()
}

func (w *world) say(format string, args ...any) { fmt.Fprintf(w.out, format+"\n", args...) }

func (w *world) main(ctx context.Context, args []string) error {
	o, err := w.parse(args)
	if err != nil {
		return err
	}
	if o.list {
		return w.list()
	}
	if err := w.checkConfig(ctx, o); err != nil {
		return err
	}
	img, err := openImage(o.image)
	if err != nil {
		return err
	}
	p := newProgress(ctx, w.out, w.tty)
	defer p.close()
	if o.sum != "" {
		want, err := wantSum(o.sum, o.image)
		if err != nil {
			return err
		}
		if err := img.checkSum(ctx, want, p); err != nil {
			return err
		}
	}
	if o.out != "" {
		return w.toFile(ctx, o, img, p)
	}
	return w.toCard(ctx, o, img, p)
}

// checkConfig lets the agent itself read the configuration: plan does nothing else with it.
func (w *world) checkConfig(ctx context.Context, o *options) error {
	if o.set.Config == "" {
		return nil
	}
	try := w.search
	if o.homeward != "" {
		try = []string{o.homeward}
	}
	for _, name := range try {
		bin, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if bin, err = filepath.Abs(bin); err != nil {
			return err
		}
		var text strings.Builder
		c := exec.CommandContext(ctx, bin, "plan", "--config", o.set.Config)
		c.Stderr = &text
		if err := c.Run(); err != nil {
			return usageError{fmt.Errorf("%s\n--config %s: %s does not accept it", strings.TrimSpace(text.String()), o.set.Config, bin)}
		}
		w.say("config    %s: read without mistakes by %s", o.set.Config, name)
		return nil
	}
	if o.homeward != "" {
		return usageError{fmt.Errorf("--homeward %s: not a program that can be run here", o.homeward)}
	}
	w.say("config    %s: NOT checked (no homeward program here: make build, or --homeward PROGRAM); copied as it is", o.set.Config)
	return nil
}

func (i *Image) describe() string {
	size := "size not known before it is unpacked"
	if i.Size >= 0 {
		size = bytesText(i.Size)
	}
	if i.Kind != "plain" {
		size = fmt.Sprintf("%s, %s unpacked", bytesText(i.Packed)+" "+i.Kind, size)
	}
	if i.Sum != "" {
		size += ", SHA-256 as published"
	}
	return fmt.Sprintf("%s: %s, %d partitions", filepath.Base(i.Path), size, len(i.Parts))
}

// steps gives what happens to the written image.
func (o *options) steps(done **Prepared) func(*overlay, []Partition) error {
	if o.set.empty() {
		return nil
	}
	return func(ov *overlay, parts []Partition) (err error) {
		*done, err = o.set.prepare(ov, parts)
		return err
	}
}

func (w *world) report(img *Image, got *Written, d *Prepared) {
	w.say("verified  %s read back, SHA-256 %x", bytesText(got.Size), got.Sum)
	if d != nil {
		for _, l := range d.Lines {
			w.say("%s", l)
		}
		w.say("verified  %s of changes read back", bytesText(got.Edited))
	}
}

func (w *world) toFile(ctx context.Context, o *options, img *Image, p progress) error {
	if _, err := os.Lstat(o.out); err == nil {
		return usageError{fmt.Errorf("--image-only %s: exists: want a new file", o.out)}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(o.out), &st); err != nil {
		return usageError{fmt.Errorf("--image-only %s: %w", o.out, err)}
	}
	if free := st.Bavail * uint64(st.Bsize); free < uint64(img.least()) {
		return fmt.Errorf("--image-only %s: %s free, but the image needs %s: take another folder", o.out, bytesText(int64(free)), bytesText(img.least()))
	}
	w.say("image     %s", img.describe())
	w.say("to        %s", o.out)
	if o.dry {
		w.plan(o)
		return nil
	}
	part := o.out + ".partial"
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("--image-only: %w", err)
	}
	dev := fileDevice{f}
	defer func() { f.Close(); os.Remove(part) }()
	// A packed image that does not say its size may not fill the disk for ever.
	limit := img.Size
	if limit < 0 {
		limit = img.End + 64<<20
	}
	var d *Prepared
	got, err := flash(ctx, img, dev, limit, o.steps(&d), p)
	if err == nil {
		if err = os.Rename(part, o.out); err == nil {
			err = syncDir(filepath.Dir(o.out))
		}
	}
	if err != nil {
		return spoiled{err, fmt.Sprintf("no image was made; %s was not touched", o.image)}
	}
	w.report(img, got, d)
	w.say("done      %s", o.out)
	return nil
}

func (w *world) plan(o *options) {
	s := &o.set
	if s.firstBoot() {
		files, err := s.stage()
		if err == nil {
			for _, f := range files {
				w.say("would put %s  %s", f.name, bytesText(int64(len(f.data))))
			}
		}
	}
	for _, e := range s.Enable {
		w.say("would set %s in config.txt", switches[e])
	}
	w.say("dry run: nothing was written")
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ask lets the user type the device's name.
func (w *world) ask(ctx context.Context, name string) error {
	if !w.ttyIn && w.stdin == os.Stdin {
		return usageError{errors.New("nobody to ask: say --yes where there is no terminal")}
	}
	fmt.Fprintf(w.out, "All of %s will be lost. Type %s to go on: ", name, name)
	type line struct {
		s   string
		err error
	}
	got := make(chan line, 1)
	// Reading a terminal cannot be interrupted: this goroutine ends with the program.
	go func() {
		s, err := bufio.NewReader(io.LimitReader(w.stdin, 4096)).ReadString('\n')
		got <- line{s, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(w.out)
		return ctx.Err()
	case l := <-got:
		if a := strings.TrimSpace(l.s); a != name && a != "/dev/"+name {
			return fmt.Errorf("%q is not %s: nothing was written", a, name)
		}
	}
	return nil
}
