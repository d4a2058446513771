//go:build !linux

package ota

import "homeward/buffer/durable"

func dropCache(durable.File) {}
