// apply makes a content, as a gateway does, and prints what /proc says of its memory: apply BLOB MADE SIZE [OLD].
package main

import (
	"fmt"
	"os"
	"strconv"

	"homeward/ota/delta"
)

func main() {
	if err := apply(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func apply(args []string) error {
	if len(args) > 0 {
		size, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		blob, err := os.Open(args[0])
		if err != nil {
			return err
		}
		made, err := os.Create(args[1])
		if err != nil {
			return err
		}
		if len(args) == 3 {
			err = delta.Decompress(made, blob, size)
		} else {
			err = patch(made, args[3], blob, size)
		}
		if err != nil {
			return err
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(status)
	return err
}

func patch(made *os.File, oldName string, blob *os.File, size int64) error {
	old, err := os.Open(oldName)
	if err != nil {
		return err
	}
	oldInfo, err := old.Stat()
	if err != nil {
		return err
	}
	blobInfo, err := blob.Stat()
	if err != nil {
		return err
	}
	return delta.Patch(made, old, oldInfo.Size(), blob, blobInfo.Size(), size)
}
