module homeward/scripts/minify

go 1.26.0

require (
	github.com/evanw/esbuild v0.25.0
	golang.org/x/sys v0.0.0-20220715151400-c0bba94af5f8 // indirect
)
