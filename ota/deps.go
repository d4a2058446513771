package ota

// What is not imported elsewhere yet, so that go.mod stays right.
import (
	_ "github.com/vbauerster/mpb/v8"
	_ "golang.org/x/time/rate"
)
