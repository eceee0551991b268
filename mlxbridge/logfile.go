package mlxbridge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	logRingBytes = 64 << 10
	// A log file that has grown this long is kept once under the name of ….1, and another is begun.
	logFileBytes = 8 << 20
	hintBytes    = 400
)

// logFile takes what a worker says: into a file, and the last of it into memory. It never fails: a full disk costs the
// file, not the worker. Safe for concurrent use.
type logFile struct {
	path string
	most int64

	mu   sync.Mutex
	file *os.File
	size int64
	ring []byte
}

func openLogFile(path string, most int64) *logFile {
	l := &logFile{path: path, most: most}
	l.open()
	return l
}

func (l *logFile) open() {
	l.file, l.size = nil, 0
	if os.MkdirAll(filepath.Dir(l.path), 0o700) != nil {
		return
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	l.file = f
	if info, err := f.Stat(); err == nil {
		l.size = info.Size()
	}
}

// Write adds p; it always succeeds.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring = append(l.ring, p...)
	if over := len(l.ring) - logRingBytes; over > 0 {
		l.ring = append(l.ring[:0], l.ring[over:]...)
	}
	if l.file == nil {
		return len(p), nil
	}
	if l.size+int64(len(p)) > l.most {
		_ = l.file.Close()
		_ = os.Rename(l.path, l.path+".1")
		l.open()
	}
	if l.file != nil {
		n, _ := l.file.Write(p)
		l.size += int64(n)
	}
	return len(p), nil
}

// lastLine returns the last line that is not empty, or "".
func (l *logFile) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := bytes.TrimSpace(l.ring)
	if i := bytes.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	line := strings.ToValidUTF8(strings.TrimSpace(string(text)), "?")
	if len(line) > hintBytes {
		line = strings.ToValidUTF8(line[:hintBytes], "") + "…"
	}
	return line
}

// hint tells where to look, with the last line of the log in it.
func (l *logFile) hint() string {
	if line := l.lastLine(); line != "" {
		return fmt.Sprintf("its log ends with: %s (%s)", line, filepath.Base(l.path))
	}
	return "its log is " + filepath.Base(l.path)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}
