package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runFlash runs the program with its real surroundings, but for what fix changes.
func runFlash(t *testing.T, fix func(*world), args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	w := &world{host: realHost(), open: func(p string) (Device, error) { return openBlock(p) },
		stdin: strings.NewReader(""), out: &o, err: &e, fsck: e2fsck}
	if fix != nil {
		fix(w)
	}
	code = w.run(context.Background(), args)
	return code, o.String(), e.String()
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestImageOnly(t *testing.T) {
	img := makeImage(t, "64bit")
	before, _ := os.ReadFile(img)
	dir := t.TempDir()
	conf := writeFile(t, dir, "homeward.yaml", "gateway: gw-0017\n")
	for _, place := range []string{"boot", "root"} {
		t.Run(place, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "ready.img")
			code, o, e := runFlash(t, nil, img, "--image-only", out, "--config", conf, "--enable", "i2c,spi,w1,uart", "--hostname", "gw-0017", "--place", place)
			if code != 0 {
				t.Fatalf("code %d\n%s%s", code, o, e)
			}
			t.Log(o)
			checkClean(t, out)
		})
	}
	after, _ := os.ReadFile(img)
	if !bytes.Equal(before, after) {
		t.Error("the image was changed")
	}
}
