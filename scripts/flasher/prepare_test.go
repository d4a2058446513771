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
	return runFlashCtx(t, context.Background(), fix, args...)
}

func runFlashCtx(t *testing.T, ctx context.Context, fix func(*world), args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	w := &world{host: realHost(), open: func(p string) (Device, error) { return openBlock(p) },
		stdin: strings.NewReader(""), out: &o, err: &e}
	if fix != nil {
		fix(w)
	}
	code = w.run(ctx, args)
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
	for _, feature := range []string{"^64bit", "64bit"} {
		t.Run(feature, func(t *testing.T) {
			img := makeImage(t, feature)
			before, _ := os.ReadFile(img)
			dir := t.TempDir()
			conf := writeFile(t, dir, "homeward.yaml", "gateway: gw-0017\n")
			out := filepath.Join(dir, "ready.img")
			code, o, e := runFlash(t, nil, img, "--image-only", out, "--config", conf, "--enable", "i2c,spi,w1,uart", "--hostname", "gw-0017")
			if code != 0 {
				t.Fatalf("code %d\n%s%s", code, o, e)
			}
			checkClean(t, out)
			after, _ := os.ReadFile(img)
			if !bytes.Equal(before, after) {
				t.Error("the image was changed")
			}
		})
	}
}
