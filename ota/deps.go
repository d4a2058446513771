package ota

import _ "golang.org/x/time/rate" // not imported elsewhere yet, so that go.mod stays right
