// Package ota is not here yet.
package ota

import (
	_ "filippo.io/age"
	_ "github.com/dsnet/compress/bzip2"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/theupdateframework/go-tuf/v2/metadata/updater"
	_ "github.com/vbauerster/mpb/v8"
	_ "golang.org/x/time/rate"
	_ "golang.org/x/term"
)
