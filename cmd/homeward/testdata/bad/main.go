// Command bad is a release that passes its self-check and then does not work: how is set by the linker.
package main

import (
	"os"
	"time"
)

var how = "exit" // exit, hang, segfault

func main() {
	if len(os.Args) > 1 && os.Args[1] == "selfcheck" {
		return
	}
	switch how {
	case "hang":
		time.Sleep(24 * time.Hour)
	case "segfault":
		var p *int
		*p = 1
	}
	os.Exit(1)
}
