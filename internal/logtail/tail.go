package logtail

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// OlderEnd is what the name of a log gets at its end when it has grown to its cap and another is begun.
	OlderEnd = ".1"
	// LineMost is the most bytes of one line; a longer one is told in pieces.
	LineMost = 64 << 10

	// followEvery is how often a log that is followed is looked at: files give no other notice that all systems have.
	followEvery = 200 * time.Millisecond
	// lastMost is more lines than a log can have.
	lastMost = 1 << 24
)

// Folder is where a log is: an *os.Root, which cannot be left, not even by a link; or a Dir.
type Folder interface {
	Open(name string) (*os.File, error)
	Stat(name string) (fs.FileInfo, error)
}

// Dir is the path of a folder. Links may lead out of it.
type Dir string

// Open opens a file of the folder for reading.
func (d Dir) Open(name string) (*os.File, error) { return os.Open(filepath.Join(string(d), name)) }

// Stat says what a name of the folder leads to.
func (d Dir) Stat(name string) (fs.FileInfo, error) { return os.Stat(filepath.Join(string(d), name)) }

// Tail is a log that is read. It holds the file open, so that what was written before a rotation is read after it. It is not
// safe for concurrent use.
type Tail struct {
	folder Folder
	name   string
	line   func(string) error

	file *os.File
	read int64  // bytes of file
	part []byte // of a line that is not whole yet; at most LineMost bytes
}

// New makes a reader of the log name in a folder. Each line is given to line, in valid UTF-8 and without its end; an error of
// line ends the reading.
func New(folder Folder, name string, line func(string) error) *Tail {
	return &Tail{folder: folder, name: name, line: line}
}

// Close lets go of the file.
func (t *Tail) Close() {
	if t.file != nil {
		_ = t.file.Close() // only read
		t.file = nil
	}
}

// Last gives the last n lines of what is there, all for 0, the older file's among them. It is called once, and first; follows
// says that Follow comes next. A line that has no end yet is given too; where Follow comes it counts as one of the n, and is
// given when it is whole. Where there is no log the error is fs.ErrNotExist, unless Follow comes, which waits for it.
func (t *Tail) Last(n int, follows bool) error {
	if err := t.open(); follows && errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	give := t.line
	defer func() { t.line = give }()
	kept := last{most: min(n, lastMost)}
	if n > 0 {
		t.line = kept.add
	}
	err := t.readOlder(nil)
	if err == nil {
		err = t.readOn()
	}
	if err == nil && !follows {
		err = t.flush()
	}
	if err != nil {
		return err
	}
	lines := kept.lines()
	if n > 0 && len(lines) == n && len(t.part) > 0 {
		lines = lines[1:]
	}
	for _, text := range lines {
		if err := give(text); err != nil {
			return err
		}
	}
	return nil
}

// Follow gives what is added to logs until ctx ends, whose cause it then returns. A log need not be there yet. Of one that is
// rotated more than twice between two looks, which are 200 ms apart or as long as line takes, only the last two files are read.
func Follow(ctx context.Context, logs ...*Tail) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		for _, t := range logs {
			if err := t.more(); err != nil {
				return err
			}
		}
	}
}

// more gives what was added since, of this file and of those that have taken its place.
func (t *Tail) more() error {
	if t.file == nil {
		if err := t.open(); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	there, err := t.folder.Stat(t.name)
	if errors.Is(err, fs.ErrNotExist) {
		return t.readOn() // between two files
	}
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	mine, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	if !os.SameFile(there, mine) {
		return t.readNext(mine)
	}
	if mine.Size() < t.read { // it was emptied
		if err := t.flush(); err != nil {
			return err
		}
		t.read = 0
	}
	return t.readOn()
}

// readNext gives the rest of the file that was followed, mine, and goes over to the one that has taken its place. Nothing is
// added to mine any more.
func (t *Tail) readNext(mine fs.FileInfo) error {
	if err := t.readOn(); err != nil {
		return err
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.open(); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := t.readOlder(mine); err != nil {
		return err
	}
	return t.readOn()
}

func (t *Tail) open() error {
	f, err := t.folder.Open(t.name)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	t.Close()
	t.file, t.read = f, 0
	return nil
}

// readOlder gives the file before this one, if there is one, it is not the one that was read before, and this one was not
// renamed to it just now.
func (t *Tail) readOlder(before fs.FileInfo) error {
	f, err := t.folder.Open(t.name + OlderEnd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open older log: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	older, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at older log: %w", err)
	}
	mine, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	if os.SameFile(older, mine) || before != nil && os.SameFile(older, before) {
		return nil
	}
	if _, err := t.drain(f); err != nil {
		return err
	}
	return t.flush()
}

// readOn gives the whole lines that were added to the file.
func (t *Tail) readOn() error {
	if _, err := t.file.Seek(t.read, io.SeekStart); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	n, err := t.drain(t.file)
	t.read += n
	return err
}

// drain gives the whole lines of r and counts its bytes.
func (t *Tail) drain(r io.Reader) (read int64, err error) {
	lines := bufio.NewReader(r)
	for {
		b, err := lines.ReadSlice('\n')
		read += int64(len(b))
		if giveErr := t.add(b); giveErr != nil {
			return read, giveErr
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return read, nil
		default:
			return read, fmt.Errorf("read log: %w", err)
		}
	}
}

// add takes up to one line, or a piece of one that is smaller than LineMost.
func (t *Tail) add(b []byte) error {
	text, isWhole := bytes.CutSuffix(b, []byte("\n"))
	if over := len(t.part) + len(text) - LineMost; over > 0 {
		fits := len(text) - over
		t.part = append(t.part, text[:fits]...)
		text = text[fits:]
		whole := wholeRunes(t.part)
		rest := bytes.Clone(t.part[whole:])
		if err := t.give(t.part[:whole]); err != nil {
			return err
		}
		t.part = append(t.part, rest...)
	}
	t.part = append(t.part, text...)
	if isWhole {
		return t.give(t.part)
	}
	return nil
}

// wholeRunes is how much of b, the begin of a text, does not end within a character.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i >= max(0, len(b)-utf8.UTFMax); i-- {
		if utf8.RuneStart(b[i]) {
			if utf8.FullRune(b[i:]) {
				break
			}
			return i
		}
	}
	return len(b)
}

// flush gives what is there of a line.
func (t *Tail) flush() error {
	if len(t.part) == 0 {
		return nil
	}
	return t.give(t.part)
}

// give gives text, after which no part of a line is there.
func (t *Tail) give(text []byte) error {
	t.part = t.part[:0]
	return t.line(strings.ToValidUTF8(string(text), "\uFFFD"))
}

// last keeps the last of many lines.
type last struct {
	most int
	kept []string
}

func (l *last) add(text string) error {
	l.kept = append(l.kept, text)
	if len(l.kept) >= 2*l.most {
		l.kept = append(l.kept[:0], l.kept[len(l.kept)-l.most:]...)
	}
	return nil
}

func (l *last) lines() []string { return l.kept[max(0, len(l.kept)-l.most):] }
