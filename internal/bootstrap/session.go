package bootstrap

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	mostOutput = 1 << 20 // kept of what a command says, in bytes
	mostErrors = 64 << 10
)

// session is an authenticated connection to one host, whose key is known. Its methods may be called from several
// goroutines.
type session interface {
	// Run runs a script of /bin/sh to its end. What it says beyond a bound is dropped. An exit status other than zero is an
	// error; a ctx that ends ends the script's connection to us, and so its standard input.
	Run(ctx context.Context, script string, stdin io.Reader) (stdout, stderr []byte, err error)
	// Start begins a script that is spoken with. It ends with ctx.
	Start(ctx context.Context, script string) (*duplex, error)
	// Alive says whether the connection stands, as far as is known.
	Alive() bool
	// Close ends the connection and everything that runs over it.
	Close()
}

// duplex is a script that is spoken with.
type duplex struct {
	In     io.WriteCloser
	Out    io.Reader
	Errors *limited
	// Wait waits for the script's end, after Out has ended. It is called once.
	Wait func() error
	// Kill ends the connection to the script at once.
	Kill func()
}

// limited keeps the beginning of what is written to it.
type limited struct {
	most int
	buf  bytes.Buffer
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.most - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (l *limited) Bytes() []byte { return l.buf.Bytes() }

// quote makes one word of a shell out of s, whatever the user's shell is: fish takes a backslash within single quotes for
// an escape, so that there is none.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'"'"'`, `\`, `'"\\"'`).Replace(s) + "'"
}

// plainWord is what every shell takes for itself.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./][A-Za-z0-9_@%+=:,./-]*$`)

// word is s as it may stand in a command that people paste.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return quote(s)
}

// shell is the command line that runs a script whatever the user's shell is.
func shell(script string) string { return "exec /bin/sh -c " + quote(script) }

// putScript writes standard input to a new file beside its place and moves it there when its hash is right. Always a new
// file: macOS kills a process whose binary is written over. What killed transfers left is swept, once it is so old that
// nobody is writing it.
const putScript = `set -e
umask 077
mkdir -p "$dir"
find "$dir" -maxdepth 1 -name '.put.*' -mmin +60 -exec rm -f {} + 2>/dev/null || :
tmp="$dir/.put.$$.$name"
trap 'rm -f "$tmp"' EXIT
trap 'exit 9' HUP INT TERM PIPE
cat > "$tmp"
got=$( (sha256sum "$tmp" 2>/dev/null || shasum -a 256 "$tmp") | cut -c1-64)
if test "$got" != "$sum"; then echo "hash is $got, not $sum" >&2; exit 9; fi
chmod "$mode" "$tmp"
mv -f "$tmp" "$dir/$name"
`

// hasScript succeeds where the file is there already, whole.
const hasScript = `test -f "$dir/$name" || exit 1
got=$( (sha256sum "$dir/$name" 2>/dev/null || shasum -a 256 "$dir/$name") | cut -c1-64)
test "$got" = "$sum" && chmod "$mode" "$dir/$name"
`

// blob is a file to put on a host.
type blob struct {
	Path   string // there, absolute
	SHA256 string
	Bytes  int64
	Mode   string // octal
	Open   func() (io.ReadCloser, error)
}

// put has a host hold a file; changed is false where it did already.
func put(ctx context.Context, s session, f blob) (changed bool, err error) {
	if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
		return false, cluster.Errorf(cluster.CodeInternal, "copy to %q: not an absolute path", untrusted.Line(f.Path, mostDetail))
	}
	head := fmt.Sprintf("dir=%s; name=%s; sum=%s; mode=%s\n", quote(path.Dir(f.Path)), quote(path.Base(f.Path)), quote(f.SHA256), quote(f.Mode))
	if _, _, err := s.Run(ctx, head+hasScript, nil); err == nil {
		return false, nil
	} else if ctx.Err() != nil {
		return false, ctx.Err()
	}
	from, err := f.Open()
	if err != nil {
		return false, cluster.Errorf(cluster.CodeInternal, "copy to %s: %v", f.Path, err)
	}
	defer func() { _ = from.Close() }()
	_, said, err := s.Run(ctx, head+putScript, from)
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return false, putError(f, string(said), err)
}

func putError(f blob, said string, err error) error {
	text := lastLine([]byte(said))
	if text == "" {
		text = untrusted.Line(err.Error(), mostDetail)
	}
	e := cluster.Errorf(cluster.CodeInternal, "copy to %s: %s", f.Path, text)
	switch {
	case strings.Contains(said, "No space left"), strings.Contains(said, "quota"):
		return e.WithHint("free some disk there: at least %s for this file", bytesText(f.Bytes))
	case strings.Contains(said, "Not a directory"), strings.Contains(said, "File exists"):
		e.Message = fmt.Sprintf("copy to %s: a file is where a folder of that path should be", f.Path)
		return e.WithHint("move that file away there: %s needs to be a folder", path.Dir(path.Dir(path.Dir(f.Path))))
	case strings.Contains(said, "Permission denied"), strings.Contains(said, "Read-only"):
		return e.WithHint("the user must own %s there", path.Dir(f.Path))
	case strings.HasPrefix(text, "hash is"):
		return e.WithHint("the connection or the disk damaged it; run it again")
	}
	return e.WithHint("run it again")
}

// bytesText is a size for people.
func bytesText(n int64) string {
	const unit = 1000
	switch {
	case n >= unit*unit*unit:
		return fmt.Sprintf("%.1f GB", float64(n)/(unit*unit*unit))
	case n >= unit*unit:
		return fmt.Sprintf("%.0f MB", float64(n)/(unit*unit))
	}
	return fmt.Sprintf("%d kB", (n+unit-1)/unit)
}
