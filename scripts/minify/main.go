// Minify writes the decoder that is shipped, packed.min.js, from the one that is read, packed.js.
//
//	minify packed.js packed.min.js
//	minify -check packed.js packed.min.js    says whether the second is fresh and small enough
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/evanw/esbuild/pkg/api"
)

// maxSize is what a consumer's script may cost it.
const maxSize = 10 << 10

func main() {
	args := os.Args[1:]
	check := len(args) > 0 && args[0] == "-check"
	if check {
		args = args[1:]
	}
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: minify [-check] FROM.js TO.js")
		os.Exit(2)
	}
	if err := run(args[0], args[1], check); err != nil {
		fmt.Fprintln(os.Stderr, "minify:", err)
		os.Exit(1)
	}
}

func run(from, to string, check bool) error {
	source, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	small, err := minify(source)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if len(small) > maxSize {
		return fmt.Errorf("%s: %d bytes: want at most %d", to, len(small), maxSize)
	}
	if !check {
		return os.WriteFile(to, small, 0o644)
	}
	now, err := os.ReadFile(to)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, small) {
		return fmt.Errorf("%s is not what %s makes: make minify", to, from)
	}
	return nil
}

const banner = "/* Homeward's packed payloads: docs/packed.md */\n"

// minify refuses what is newer than ES2015: it would be rewritten into more code, or not at all.
func minify(source []byte) ([]byte, error) {
	r := api.Transform(string(source), api.TransformOptions{
		MangleProps:       "_$",
		Target:            api.ES2015,
		Charset:           api.CharsetASCII,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		MinifySyntax:      true,
		LegalComments:     api.LegalCommentsNone,
	})
	if len(r.Errors) > 0 {
		return nil, fmt.Errorf("%s", r.Errors[0].Text)
	}
	return append([]byte(banner), r.Code...), nil
}
