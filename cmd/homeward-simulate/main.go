// Command homeward-simulate makes simulated sites for homeward.
package main

import (
	"os"

	"homeward/cmd/homeward-simulate/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
