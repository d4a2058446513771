// Command man writes the manual pages of homeward from its command tree.
package main

import (
	"log"
	"os"
	"path/filepath"

	"github.com/spf13/cobra/doc"

	"homeward/cmd/homeward/cli"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: man DIR")
	}
	dir := filepath.Clean(os.Args[1])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		log.Fatal(err)
	}
	if err := doc.GenManTree(cli.Command(), &doc.GenManHeader{Title: "HOMEWARD", Section: "8", Source: "Homeward"}, dir); err != nil {
		log.Fatal(err)
	}
}
