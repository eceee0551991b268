package cmd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// openNATSAddr is where the embedded NATS listens for other machines; it wants TLS and an identity from everybody.
const openNATSAddr = "0.0.0.0:8660"

// reversePort is where an agent listens that may not dial its controller.
const reversePort = 8661

// openToNetwork is what the services ran with, but with a bus that other machines reach. The port stays.
func openToNetwork(before *localSettings) *localSettings {
	l := localSettings{NATSAddr: openNATSAddr}
	if before == nil {
		return &l
	}
	l = *before
	_, port, err := net.SplitHostPort(l.NATSAddr)
	switch {
	case err != nil:
		l.NATSAddr = openNATSAddr
	case isLoopback(l.NATSAddr):
		l.NATSAddr = net.JoinHostPort("0.0.0.0", port)
	}
	return &l
}

// isLoopback says that only programs on this machine reach an address.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

// checkNetwork refuses settings with which no other machine could join.
func checkNetwork(cfg *config.Config) error {
	if cfg.NATSURL != "" {
		return usageHint("leave out nats_url, or start the agents yourself", "other Macs join over the embedded NATS, and nats_url is set")
	}
	if isLoopback(cfg.NATSAddr) {
		return usageHint("leave out nats_addr, or set it to "+openNATSAddr, "nats_addr %s lets no other Mac in", cfg.NATSAddr)
	}
	return nil
}

// lanAddresses are those on which other machines may reach this one, in a fixed order.
func lanAddresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagPointToPoint != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || prefix.Addr().IsLinkLocalUnicast() {
				continue
			}
			out = append(out, prefix.Addr().Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare) // IPv4 first
	return slices.Compact(out), nil
}

// nodeSettings are what agents of this cluster run with.
func nodeSettings(a *trust.Authority, l *localSettings) (plan.Settings, error) {
	models, err := json.Marshal(l.Models)
	if err != nil {
		return plan.Settings{}, fmt.Errorf("encode settings of models: %w", err)
	}
	urls, err := networkURLs("tls://", l.NATSAddr)
	if err != nil {
		return plan.Settings{}, err
	}
	return plan.Settings{
		Cluster: a.Name(), ClusterID: a.ClusterID(), ServerName: a.ServerName(), URLs: urls, CA: string(a.CAPEM()),
		LogLevel: l.LogLevel, Models: models,
	}, nil
}

// mostNetworkURLs bounds the addresses that others are told.
const mostNetworkURLs = 8

// networkURLs are where other machines reach what listens on addr here: each address of this one where it listens on all,
// IPv4 first, and its name last, which may find it when all addresses have changed.
func networkURLs(scheme, addr string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("split address: %w", err)
	}
	if ip, err := netip.ParseAddr(host); host != "" && (err != nil || !ip.IsUnspecified()) {
		return []string{scheme + addr}, nil
	}
	addrs, err := lanAddresses()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs[:min(len(addrs), mostNetworkURLs-1)] {
		out = append(out, scheme+net.JoinHostPort(a.String(), port))
	}
	name, _, _ := strings.Cut(hostName(), ".")
	return append(out, scheme+net.JoinHostPort(name+".local", port)), nil
}

// settingsDigest tells settings apart.
func settingsDigest(s plan.Settings) string {
	data, err := json.Marshal(s)
	if err != nil {
		return "" // equal to none
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// operatorName is who asks, for whoever finds a host locked.
func operatorName() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("%s@%s pid %d", name, hostName(), os.Getpid())
}

// localNode is the node of this machine, as its agent named it; empty before it ran.
func localNode(home string) cluster.NodeID {
	id, _ := localIdentity(home)
	return id
}
