package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// SocketFlag is the flag by which a child learns the descriptor of the socket that listens for it.
	SocketFlag = "socket"
	// InheritFlag is the flag by which a keeper learns of the socket of the one before it; its value is for Options.Inherit.
	InheritFlag = "inherit"

	// handTimeout bounds a talk between a keeper and the command that replaces it.
	handTimeout   = 5 * time.Second
	mostHandBytes = 512
)

// socket is what listens for a child. The keeper has it, not the child: connections that are made while the child is
// started again wait, and are not refused.
type socket struct {
	addr string
	file *os.File
}

// listenOn makes one.
func listenOn(addr string) (*socket, error) {
	l, err := net.Listen("tcp", addr) //nolint:noctx // a local bind does not wait
	if err != nil {
		return nil, err
	}
	defer l.Close() //nolint:errcheck // the file is another descriptor
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	return &socket{addr, f}, nil
}

// inherited is the socket of Options.Inherit, if it is for that address.
func inherited(value, addr string) *socket {
	fdText, was, _ := strings.Cut(value, ",")
	fd, err := strconv.Atoi(fdText)
	if err != nil || fd < lifelineFD {
		return nil
	}
	unix.CloseOnExec(fd)
	s := &socket{was, os.NewFile(uintptr(fd), was)}
	if was != addr {
		s.close()
		return nil
	}
	return s
}

func (s *socket) close() {
	if s != nil {
		_ = s.file.Close() // nothing was written to it
	}
}

// Listener is the socket that a keeper gave to a child, or nil for a descriptor of zero: the child listens by itself.
func Listener(fd int) (net.Listener, error) {
	if fd == 0 {
		return nil, nil
	}
	if fd < lifelineFD {
		return nil, fmt.Errorf("no socket on descriptor %d", fd)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() //nolint:errcheck // the listener has its own descriptor
	return net.FileListener(f)
}

// hand is the keeper's side of its replacement: it gives its socket to the command that asks, and then ends in good order.
type hand struct {
	finish chan struct{} // closed when the children are to finish
	once   sync.Once
	most   time.Duration // set before finish is closed: how long they may take
	asker  net.Conn      // as well: open for as long as the command lives
}

// serveHand answers on the keeper's own socket until stop, which waits. Without it a replacement is not seamless, and
// that is all.
func (k *keeper) serveHand() (stop func()) {
	path := k.o.run("keeper.sock")
	_ = os.Remove(path)                // of a keeper that was killed; a failure shows below
	l, err := net.Listen("unix", path) //nolint:noctx // a local bind does not wait
	if err != nil {
		k.o.Log.Warn("a replacement of this keeper will not be seamless", "err", err)
		return func() {}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := k.answerHand(c.(*net.UnixConn)); err != nil {
				k.o.Log.Warn("cannot hand over", "err", err)
				_ = c.Close()
			}
		}
	})
	return func() {
		_ = l.Close() // which removes the file
		wg.Wait()
	}
}

func (k *keeper) answerHand(c *net.UnixConn) error {
	if err := c.SetDeadline(time.Now().Add(handTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, mostHandBytes)).ReadString('\n')
	if err != nil {
		return err
	}
	most, err := time.ParseDuration(strings.TrimSpace(line))
	if err != nil {
		return err
	}
	addr, rights, closeCopy, err := k.copySocket()
	if err != nil {
		return err
	}
	defer closeCopy()
	if _, _, err := c.WriteMsgUnix([]byte(addr+"\n"), rights, nil); err != nil {
		return err
	}
	k.o.Log.Info("ending for another keeper", "most", most)
	isFirst := false
	k.hand.once.Do(func() {
		isFirst, k.hand.most, k.hand.asker = true, most, c
		close(k.hand.finish)
	})
	if !isFirst {
		return c.Close()
	}
	return nil
}

// copySocket makes a copy of the socket's descriptor to hand over: whoever takes it may be slow, and nobody is to wait for that.
func (k *keeper) copySocket() (addr string, rights []byte, closeCopy func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.socket == nil {
		return "none", nil, func() {}, nil
	}
	var own int
	var copyErr error
	err = withFD(k.socket.file, func(fd int) { own, copyErr = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, copyErr); err != nil {
		return "", nil, nil, err
	}
	return k.socket.addr, unix.UnixRights(own), func() { _ = unix.Close(own) }, nil // nothing was written to it
}

// succeed starts a keeper in place of one that finished for a command which is gone since: whoever closes a terminal does
// not mean to stop the services.
func (k *keeper) succeed() error {
	if !isClosed(k.hand.finish) {
		return nil
	}
	c := k.hand.asker
	defer c.Close() //nolint:errcheck // the process ends
	_ = c.SetReadDeadline(time.Now().Add(poll))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || !k.isWanted() {
		return nil // it is there, and sees to it
	}
	k.o.Log.Warn("whoever replaces this keeper is gone; starting another")
	_, err := Spawn(k.o)
	return err
}

func withFD(f *os.File, do func(fd int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { do(int(fd)) })
}

// replace has the keeper of another version or other settings let its children finish, and end. It returns the keeper's
// socket, or nil where it has none to give; whether the keeper is gone is for Stop to see to. release is called when another
// keeper runs.
func (o Options) replace(ctx context.Context, keeper process) (held *socket, release func()) {
	var d net.Dialer
	dial, cancel := context.WithTimeout(ctx, handTimeout)
	defer cancel()
	conn, err := d.DialContext(dial, "unix", o.run("keeper.sock"))
	if err != nil {
		o.Log.Debug("no socket is handed over", "err", err)
		return nil, func() {}
	}
	held, err = o.askHand(conn)
	if err != nil {
		o.Log.Debug("no socket is handed over", "err", err)
	} else {
		keeper.waitGone(ctx, o.Finish+2*o.grace())
	}
	if held != nil && held.addr != o.Listen {
		held.close()
		held = nil
	}
	return held, func() {
		held.close()
		_ = conn.Close()
	}
}

func (o Options) askHand(conn net.Conn) (*socket, error) {
	if err := conn.SetDeadline(time.Now().Add(handTimeout)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "%s\n", o.Finish); err != nil {
		return nil, err
	}
	text, oob := make([]byte, mostHandBytes), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(text, oob)
	if err != nil {
		return nil, err
	}
	fd, err := rightOf(oob[:oobn])
	if err != nil || fd < 0 {
		return nil, err
	}
	addr := strings.TrimSpace(string(text[:n]))
	return &socket{addr, os.NewFile(uintptr(fd), addr)}, nil
}

// rightOf is the descriptor in a control message; -1 where there is none.
func rightOf(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		return -1, errors.New("not one descriptor")
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// takeSocket is what listens for a child now: what there is, or a new one. Nil where the address cannot be had: the child
// then says so.
func (k *keeper) takeSocket() *socket {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.socket == nil && k.o.Listen != "" {
		s, err := listenOn(k.o.Listen)
		if err != nil {
			k.o.Log.Warn("cannot listen for a child", "addr", k.o.Listen, "err", err)
			return nil
		}
		k.socket = s
	}
	return k.socket
}

// dropSocket refuses connections from now on.
func (k *keeper) dropSocket() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.socket.close()
	k.socket = nil
}
