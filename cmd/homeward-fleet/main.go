// Command homeward-fleet is the fleet manager's program: it signs what the fleet is told, and shows what it does.
package main

import (
	"os"

	"homeward/cmd/homeward-fleet/cli"
)

// version is set by the linker: -X main.version=… (see the Makefile).
var version = "dev"

func main() {
	cli.Version = version
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
