package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

const (
	// followEvery is how often a log that is followed is looked at: files give no other notice that all systems have.
	followEvery = 200 * time.Millisecond
	// lineMost is the most bytes of one line; a longer one is told in pieces.
	lineMost = 64 << 10
	// tailMost is more lines than a log can have.
	tailMost = 1 << 24
	// olderEnd is what a log is renamed to when it has grown to its cap and another is begun.
	olderEnd = ".1"
)

// logFile reads a log by lines, through its rotation. It holds the file open, so that what was written before a
// rotation is read after it.
type logFile struct {
	root *os.Root
	name string
	line func(string) error

	file *os.File
	read int64  // bytes of file
	part []byte // of a line that is not whole yet
}

func (l *logFile) close() {
	if l.file != nil {
		_ = l.file.Close() // only read
		l.file = nil
	}
}

// show gives the last lines, all for 0, the older file's among them, and then, following, those that are added until
// ctx ends.
func (l *logFile) show(ctx context.Context, tail int, follow bool) error {
	err := l.showOld(tail)
	if err != nil && (!follow || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if !follow {
		return l.flush()
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := l.more(); err != nil {
			return err
		}
	}
}

// showOld gives what is there already.
func (l *logFile) showOld(tail int) error {
	err := l.open()
	if err != nil {
		return err
	}
	emit := l.line
	kept := last{most: min(tail, tailMost)}
	l.line = kept.add
	if err = l.readOlder(); err == nil {
		err = l.readOn()
	}
	l.line = emit
	if err != nil {
		return err
	}
	older := kept.lines()
	if tail > 0 && len(l.part) > 0 {
		older = older[max(0, len(older)-tail+1):] // the part counts as the last line
	}
	for _, text := range older {
		if err := emit(text); err != nil {
			return err
		}
	}
	return nil
}

// readOlder gives the file before this one, if there is one and this one was not renamed to it just now.
func (l *logFile) readOlder() error {
	old, err := l.root.Open(l.name + olderEnd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open older log: %w", err)
	}
	defer old.Close() //nolint:errcheck // only read
	oldInfo, err := old.Stat()
	if err != nil {
		return fmt.Errorf("look at older log: %w", err)
	}
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	if os.SameFile(oldInfo, info) {
		return nil
	}
	if err := l.drain(old); err != nil {
		return err
	}
	l.read = 0
	return l.flush()
}

func (l *logFile) open() error {
	f, err := l.root.Open(l.name)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	l.close()
	l.file, l.read = f, 0
	return nil
}

// more gives what was added since, of this file and of the one that has taken its place.
func (l *logFile) more() error {
	if l.file == nil {
		if err := l.open(); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	now, err := l.root.Stat(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		return l.readOn() // between two files
	}
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	if os.SameFile(now, info) {
		if info.Size() < l.read {
			l.read, l.part = 0, nil // it was emptied
		}
		return l.readOn()
	}
	// The file was renamed before now was looked at, so nothing is added to it any more.
	if err := l.readOn(); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.open(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return l.readOn()
}

// readOn gives the whole lines that were added to the file.
func (l *logFile) readOn() error {
	if _, err := l.file.Seek(l.read, io.SeekStart); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return l.drain(l.file)
}

func (l *logFile) drain(r io.Reader) error {
	lines := bufio.NewReaderSize(r, lineMost)
	for {
		b, err := lines.ReadSlice('\n')
		l.read += int64(len(b))
		l.part = append(l.part, b...)
		if err == nil || len(l.part) >= lineMost {
			if err := l.flush(); err != nil {
				return err
			}
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// flush gives what is there of a line.
func (l *logFile) flush() error {
	if len(l.part) == 0 {
		return nil
	}
	text := string(bytes.TrimSuffix(l.part, []byte("\n")))
	l.part = l.part[:0]
	return l.line(strings.ToValidUTF8(text, "\uFFFD"))
}

// last keeps the last of many lines; all for most 0.
type last struct {
	most int
	kept []string
}

func (t *last) add(text string) error {
	t.kept = append(t.kept, text)
	if t.most > 0 && len(t.kept) >= 2*t.most {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.most:]...)
	}
	return nil
}

func (t *last) lines() []string {
	if t.most > 0 {
		return t.kept[max(0, len(t.kept)-t.most):]
	}
	return t.kept
}
