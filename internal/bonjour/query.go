package bonjour

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	port = 5353
	// unicastAnswer asks a responder to answer to the asker alone.
	unicastAnswer = 1 << 15
	// mostFailures in a row end a socket: one that fails for ever would be read for ever.
	mostFailures = 100
)

// pauseAfter is how long to wait after a question was asked for the nth time: packets get lost, and Wi-Fi delays
// multicast.
func pauseAfter(n int) time.Duration {
	return min(150*time.Millisecond<<min(n-1, 8), 1500*time.Millisecond)
}

// query asks by one-shot queries from a port of its own until ctx ends. Answers come to that port alone, whoever else
// listens on 5353, and tell which interface they came in by.
func query(ctx context.Context, b *book, family string, heard chan<- []record, asked *sends, log *slog.Logger) {
	s, err := openSocket(family)
	if err != nil {
		log.Debug("cannot open a socket for multicast dns", "family", family, "err", err)
		return
	}
	var run sync.WaitGroup
	defer run.Wait()
	defer s.close() // ends read
	run.Go(func() { s.read(ctx, b, heard) })
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		questions := b.missing()
		for _, service := range b.services {
			questions = append(questions, dns.Question{Name: service + "." + domain + ".", Qtype: dns.TypePTR})
		}
		for _, q := range questions {
			s.ask(b.net, q, asked)
		}
		pause.Reset(pauseAfter(i))
	}
}

// socket is a UDP socket of one family that tells the interfaces of its packets.
type socket struct {
	conn *net.UDPConn
	v4   *ipv4.PacketConn // one of these
	v6   *ipv6.PacketConn
}

func openSocket(family string) (*socket, error) {
	conn, err := net.ListenUDP(family, nil)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn}
	if family == "udp4" {
		s.v4 = ipv4.NewPacketConn(conn)
		err = errors.Join(s.v4.SetMulticastTTL(255), s.v4.SetControlMessage(ipv4.FlagInterface, true))
	} else {
		s.v6 = ipv6.NewPacketConn(conn)
		err = errors.Join(s.v6.SetMulticastHopLimit(255), s.v6.SetControlMessage(ipv6.FlagInterface, true))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() { _ = s.conn.Close() }

// ask sends one question by every interface.
func (s *socket) ask(n *network, q dns.Question, asked *sends) {
	q.Qclass = dns.ClassINET | unicastAnswer
	m := dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id()}, Question: []dns.Question{q}}
	packet, err := m.Pack()
	if err != nil {
		return // a name of somebody else's that cannot be asked for
	}
	for _, i := range n.interfaces {
		if s.v4 != nil {
			_, err = s.v4.WriteTo(packet, &ipv4.ControlMessage{IfIndex: i.Index}, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: port})
		} else {
			_, err = s.v6.WriteTo(packet, &ipv6.ControlMessage{IfIndex: i.Index}, &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: port, Zone: i.Name})
		}
		asked.note(err)
	}
}

// read hands on what is answered until the socket is closed.
func (s *socket) read(ctx context.Context, b *book, heard chan<- []record) {
	buf := make([]byte, packetBytes+1)
	for failed := 0; failed < mostFailures; {
		n, index, from, err := s.receive(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			failed++ // about an earlier packet of ours that did not arrive, unless it does not end
			continue
		}
		failed = 0
		if from.Port() != port || !b.net.isOnLink(from.Addr()) {
			continue
		}
		hand(ctx, heard, toldBy(from.Addr(), decode(buf[:n], b.services, b.net.zone(index))))
	}
}

// toldBy notes who answered.
func toldBy(from netip.Addr, records []record) []record {
	for i := range records {
		records[i].from = from.Unmap().WithZone("")
	}
	return records
}

func (s *socket) receive(buf []byte) (n, index int, from netip.AddrPort, err error) {
	var addr net.Addr
	if s.v4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, addr, err = s.v4.ReadFrom(buf); cm != nil {
			index = cm.IfIndex
		}
	} else {
		var cm *ipv6.ControlMessage
		if n, cm, addr, err = s.v6.ReadFrom(buf); cm != nil {
			index = cm.IfIndex
		}
	}
	if udp, ok := addr.(*net.UDPAddr); ok {
		from = udp.AddrPort()
	}
	return n, index, from, err
}

// sends counts how questions fared on their way out.
type sends struct {
	mu      sync.Mutex
	went    int   // guarded by mu
	refused error // guarded by mu; the last that was not let out
}

func (s *sends) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.went++
	} else if no, ok := errors.AsType[syscall.Errno](err); ok && (no == syscall.EHOSTUNREACH || no == syscall.EPERM) {
		s.refused = no
	}
}

// denied is the error of a machine that lets this program send nothing to its neighbours, as macOS does without the
// permission for the local network.
func (s *sends) denied() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.went > 0 || s.refused == nil {
		return nil
	}
	return cluster.Errorf(cluster.CodeUnauthorized, "this machine does not let mlxctl speak on the local network: %v", s.refused).
		WithHint("System Settings → Privacy & Security → Local Network: allow the program that runs this terminal")
}
