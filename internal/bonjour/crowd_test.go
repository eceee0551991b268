package bonjour_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bonjour"
)

// Whoever forges adverts crowds out no host that speaks for itself, whether the forged ones name one address or many, and
// whether or not it is known who sent them.
func TestForgedAdvertsCrowdOutNobody(t *testing.T) {
	t.Parallel()
	own := []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")}
	thief := netip.MustParseAddr("10.88.0.66")
	one := func(int) net.IP { return net.IPv4(10, 88, 0, 77) }
	many := func(i int) net.IP { return net.IPv4(10, 88, byte(10+i/250), byte(1+i%250)) }
	for name, c := range map[string]struct {
		at     func(i int) net.IP
		sender func(i int) netip.Addr
		most   int // hosts that are listed beside the real ones
	}{
		"one address":              {one, func(int) netip.Addr { return thief }, 1},
		"one address, nobody's":    {one, func(int) netip.Addr { return netip.Addr{} }, 1},
		"many addresses":           {many, func(int) netip.Addr { return thief }, 16},
		"many addresses, nobody's": {many, func(int) netip.Addr { return netip.Addr{} }, 48},
		"many senders": {many, func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 88, 5, byte(i % 30)})
		}, 30 * 16},
	} {
		var told []bonjour.Told
		for i := range 3000 {
			told = append(told, bonjour.Told{From: c.sender(i), Packet: forged(fmt.Sprintf("x%d", i), c.at(i))})
		}
		var want []string
		for i := range 3 {
			ip := netip.AddrFrom4([4]byte{10, 88, 0, byte(2 + i)})
			host := fmt.Sprintf("mac%d", i)
			want = append(want, host+".local")
			told = append(told, bonjour.Told{From: ip, Packet: forged(host, ip.AsSlice())})
		}
		got := bonjour.HeardFrom(own, "en0", told)
		for _, host := range want {
			if !slices.ContainsFunc(got, func(m bonjour.Mac) bool { return m.HostName == host }) {
				t.Errorf("%s: %s is not among %d", name, host, len(got))
			}
		}
		if len(got) > c.most+len(want) {
			t.Errorf("%s: %d hosts", name, len(got))
		}
	}
}
