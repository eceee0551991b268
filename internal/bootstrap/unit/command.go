package unit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

const (
	commandWait = 90 * time.Second
	outputMost  = 64 << 10
)

// failed is a command of the system that ended with an error.
type failed struct {
	command string
	code    int // -1 where it did not even run
	said    string
	err     error
}

func (f *failed) Error() string {
	if f.said != "" {
		return fmt.Sprintf("%s: %s", f.command, f.said)
	}
	return fmt.Sprintf("%s: %v", f.command, f.err)
}

func (f *failed) Unwrap() error { return f.err }

// codeOf is the exit code of a command that failed; 0 for nil.
func codeOf(err error) int {
	if err == nil {
		return 0
	}
	if f, ok := errors.AsType[*failed](err); ok {
		return f.code
	}
	return -1
}

// command runs one of the system's commands to its end.
func command(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, said capped
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	name, _, _ := strings.Cut(strings.Join(args[:min(len(args), 4)], " "), "\n")
	f := &failed{command: name, code: -1, said: said.line(), err: err}
	if cmd.ProcessState != nil {
		f.code = cmd.ProcessState.ExitCode()
	}
	if f.said == "" {
		f.said = out.line()
	}
	return out.String(), f
}

// capped keeps the beginning of what is written.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := outputMost - c.Len(); room > 0 {
		c.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

func (c *capped) line() string {
	text := strings.TrimSpace(c.String())
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return text
}

// root runs a command as the superuser. The password is in no argument and no environment.
func (s Spec) root(ctx context.Context, args ...string) error {
	_, err := s.rootOutput(ctx, args...)
	return err
}

func (s Spec) rootOutput(ctx context.Context, args ...string) (string, error) {
	return s.rootWith(ctx, "", args...)
}

// rootWith also gives the command something on its standard input. Before it may stand the password, where sudo did not
// want one.
func (s Spec) rootWith(ctx context.Context, stdin string, args ...string) (string, error) {
	switch {
	case s.euid == 0:
		return command(ctx, stdin, args...)
	case s.Password == "":
		return command(ctx, stdin, append([]string{"sudo", "-n", "--"}, args...)...)
	}
	if err := s.validate(ctx); err != nil {
		return "", err
	}
	return command(ctx, s.Password+"\n"+stdin, append([]string{"sudo", "-S", "-p", "", "--"}, args...)...)
}

// Sudo remembers whether sudo takes the password: each try of a wrong one is a failed login, and a few of them lock the
// account.
type Sudo struct {
	asked bool
	err   error
}

// validate asks sudo about the password once.
func (s Spec) validate(ctx context.Context) error {
	if s.Sudo == nil || s.Sudo.asked {
		return s.Sudo.refusal()
	}
	_, err := command(ctx, s.Password+"\n", "sudo", "-S", "-p", "", "-v")
	if ctx.Err() != nil {
		return err // it did not say
	}
	s.Sudo.asked = true
	if err != nil {
		s.Sudo.err = cluster.Errorf(cluster.CodeUnauthorized, "sudo does not take the password of %s: %v", s.User, err).
			WithHint("it was tried once, and is not again; --ask-sudo asks for another")
	}
	return s.Sudo.err
}

func (u *Sudo) refusal() error {
	if u == nil {
		return nil
	}
	return u.err
}

// textFollows is the line before the text of a file.
const textFollows = "mlxctl: the text follows"

// putScript replaces the file $2 by the text on standard input that follows the line $1, of $3 bytes, with mode $4 and
// owner $5. The text is in no file that another process of the user could change before the superuser reads it.
const putScript = `set -e
while IFS= read -r line && test "$line" != "$1"; do :; done
umask 077
trap 'rm -f "$2.new"' EXIT
rm -f "$2.new"
cat >"$2.new"
test "$(wc -c <"$2.new")" -eq "$3"
test -z "$5" || chown "$5" "$2.new"
chmod "$4" "$2.new"
mv -f "$2.new" "$2"`

// put replaces a file, whole or not at all, with run as the right to.
func put(run func(stdin string, args ...string) error, path, mode, owner string, text []byte) error {
	return run(textFollows+"\n"+string(text), "sh", "-c", putScript, "put", textFollows, path, strconv.Itoa(len(text)), mode, owner)
}

// mayRoot says why there is no superuser to be had.
func (s Spec) mayRoot(ctx context.Context) error {
	if err := s.root(ctx, "true"); err != nil {
		return cluster.Errorf(cluster.CodeUnauthorized, "no sudo for %s: %v", s.User, err)
	}
	return nil
}

// writeFile replaces a file, whole or not at all, and on the disk when it returns.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return durable.Write(path, data, mode)
}

// readFile returns nil where there is none.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read unit: %w", err)
	}
	return data, nil
}

func removeFile(path string) error {
	if err := durable.Remove(path); err != nil {
		return fmt.Errorf("remove unit: %w", err)
	}
	return nil
}

// quote makes one word of a shell out of any text.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
