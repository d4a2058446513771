package buffer

import "os"

func mkTemp() (string, error) { return os.MkdirTemp("", "buffer") }
func removeAll(dir string)    { _ = os.RemoveAll(dir) }
