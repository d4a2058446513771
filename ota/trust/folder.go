package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

type folder string

// Folder is a repository in a local folder, or on a USB stick where it is mounted. Links that lead out of the folder are refused,
// and so is what is not a regular file. The folder need not be there yet.
func Folder(dir string) Source { return folder(dir) }

// Get opens a file. A file that is not there is [ErrNotFound] only if the folder is.
func (f folder) Get(ctx context.Context, q Request) (*Body, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := checkName(q.Name); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(string(f))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // the file stays open
	// Without O_NONBLOCK a pipe would wait for its writer.
	file, err := dir.OpenFile(filepath.FromSlash(q.Name), os.O_RDONLY|nonblock, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	body, err := f.open(file, q)
	if err != nil {
		_ = file.Close() // only read
		return nil, err
	}
	return body, nil
}

func (f folder) open(file *os.File, q Request) (*Body, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %s; a regular file is wanted", q.Name, info.Mode().Type())
	}
	body := &Body{ReadCloser: file, Size: info.Size()}
	if q.Max > 0 && body.Size > q.Max {
		return nil, fmt.Errorf("%w: %s has %d bytes; at most %d are wanted", errTooLong, q.Name, body.Size, q.Max)
	}
	if q.Offset > 0 && q.Offset < body.Size {
		if body.Offset, err = file.Seek(q.Offset, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return body, nil
}
