package service

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LogBytes caps one log file; one older file of that size is kept beside it, with the suffix ".1".
const LogBytes = 8 << 20

// Log is the log of one service: a file that also receives what the runtime itself prints on standard error, and that
// is set aside when it has grown to its cap. It is safe for concurrent use.
type Log struct {
	path string
	most int64
	// takeOver points the standard streams at a new file.
	takeOver func(*os.File) error

	mu   sync.Mutex
	f    *os.File // guarded by mu, as is size
	size int64
}

var _ io.Writer = (*Log)(nil)

// OpenLog opens the log of a service and points this process's standard output and error at it.
func OpenLog(home, name string) (*Log, error) {
	return openLog(LogPath(home, name), LogBytes, func(f *os.File) error {
		return errors.Join(unix.Dup2(int(f.Fd()), 1), unix.Dup2(int(f.Fd()), 2))
	})
}

func openLog(path string, most int64, takeOver func(*os.File) error) (*Log, error) {
	l := &Log{path: path, most: most, takeOver: takeOver}
	return l, l.open()
}

// open is called with mu held, or before anyone else knows l.
func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = l.takeOver(f)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write appends to the log; a line is never split over two files.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > l.most {
		l.rotate()
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// rotate is called with mu held. Where it fails the old file is simply written on.
func (l *Log) rotate() {
	old := l.f
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if l.open() == nil {
		_ = old.Close()
	}
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// LastLine is the end of the log of one service; empty where nothing was written since then.
func LastLine(home, name string, since time.Time) string {
	info, err := os.Stat(LogPath(home, name))
	if err != nil || info.ModTime().Before(since) {
		return ""
	}
	return tail(LogPath(home, name))
}
