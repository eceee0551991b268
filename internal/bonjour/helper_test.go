package bonjour_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/grandcat/zeroconf"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bonjour"
)

// helperVariable makes the test binary one of the programs below: a test moves no threads between namespaces, it runs
// itself in them.
const helperVariable = "MLXCTL_BONJOUR_HELPER"

// scanFor is enough for a slow machine, too.
const scanFor = 5 * time.Second

// scanned is what the program "scan" prints.
type scanned struct {
	Macs  []bonjour.Mac
	Found []bonjour.Mac
	Error string
	Took  time.Duration
}

// helper runs one program and returns its exit code. Its output ends with an error where goroutines are left.
func helper(what string, args []string) int {
	var out any
	var err error
	ctx := context.Background()
	switch what {
	case "scan":
		out, err = scan(ctx)
	case "abandon":
		err = abandon(ctx)
	case "controllers":
		out, err = bonjour.Controllers(ctx, args[0])
	case "advertise":
		ctx, cancel := context.WithCancel(ctx)
		go func() {
			defer cancel()
			_, _ = io.Copy(io.Discard, os.Stdin)
		}()
		advert := bonjour.Advert{ClusterID: args[0], Name: "attic", ControllerID: "0123456789AB", CAHash: "00ff", Port: 8660}
		return exitCode(bonjour.Advertise(ctx, advert, slog.New(slog.NewTextHandler(os.Stderr, nil))))
	case "forge":
		return exitCode(forge(args[0]))
	case "flood":
		return exitCode(flood())
	}
	if err == nil {
		err = goleak.Find()
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func scan(ctx context.Context) (scanned, error) {
	var s scanned
	began := time.Now()
	macs, err := bonjour.Scan(ctx, bonjour.ScanOptions{
		For: scanFor, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Found: func(m bonjour.Mac) { s.Found = append(s.Found, m) },
	})
	s.Macs, s.Took = macs, time.Since(began)
	if err != nil {
		s.Error = err.Error()
	}
	return s, nil
}

// abandon ends scans while their results are being told, and others have queued up behind.
func abandon(ctx context.Context) error {
	for range 5 {
		ctx, cancel := context.WithCancel(ctx)
		_, err := bonjour.Scan(ctx, bonjour.ScanOptions{Found: func(bonjour.Mac) {
			select {
			case <-time.After(200 * time.Millisecond):
				cancel()
			case <-ctx.Done():
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("nobody was found, or the end was not told: %w", err)
		}
	}
	return nil
}

// forge answers for a host with hostile names until standard input ends.
func forge(address string) error {
	server, err := zeroconf.RegisterProxy("\x1b[2J\x1b]0;owned\x07Fred\u202e", "_ssh._tcp", "local.", 22, "\x1b[31mfred", []string{
		netip.MustParseAddr(address).String(),
	}, []string{"model=\x1b[31m"}, nil)
	if err != nil {
		return err
	}
	defer server.Shutdown()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// ended is closed when standard input is.
func ended() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return done
}

// flood tells the network of one Mac after another.
func flood() error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 5353})
	if err != nil {
		return err
	}
	defer conn.Close()
	end := ended()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-end:
			return nil
		case <-tick.C:
		}
		if _, err := conn.WriteToUDP(forged(fmt.Sprintf("flood%d", i), net.IPv4(10, 88, 0, 77)), mdns()); err != nil {
			return err
		}
	}
}

func mdns() *net.UDPAddr { return &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353} }

// forged is the answer of a host that does not exist.
func forged(name string, at net.IP) []byte {
	owner := name + "._ssh._tcp.local."
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Answer: []dns.RR{
		&dns.PTR{Hdr: header("_ssh._tcp.local.", dns.TypePTR), Ptr: owner},
		&dns.SRV{Hdr: header(owner, dns.TypeSRV), Port: 22, Target: name + ".local."},
		&dns.A{Hdr: header(name+".local.", dns.TypeA), A: at},
	}}
	packet, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return packet
}
