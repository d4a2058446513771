// Command homeward is the gateway's program.
package main

import (
	"os"

	"homeward/cmd/homeward/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
