package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	net1 = "ead54b80889722240e56968cab090001c807604430e57100cb8e76e260b8f258"
	net2 = "29eca9e4682e6cd17eff2f9a4f23d8e1feaea86d6b4acb140e74b4d93704317a"
	ep1  = "461816c91a3b103b4228e80cccb2971950984be51ee7d28b41c13e56b00641ec"
	ep2  = "46f42e18d7f2734244a733fa81300f10f46882998c4dc47c8a664481a91591a9"
)

// step is one request of an engine; each is asked for twice, and answered
// alike, unless once is set.
type step struct {
	method, body string
	want         string   // the answer
	fails        string   // or the error, as people read it
	calls        []string // of the daemon
	once         bool
}

// TestRequests has every call with the bodies that Engine 20.10 sends.
func TestRequests(t *testing.T) {
	const pool = `"PoolID":"10.32.0.0/16"`
	for name, steps := range map[string][]step{
		"what we are": {
			{method: "Plugin.Activate", want: `{"Implements":["NetworkDriver","IpamDriver"]}`},
			{method: "NetworkDriver.GetCapabilities", want: `{"Scope":"local","ConnectivityScope":"global"}`},
			{method: "IpamDriver.GetCapabilities", want: `{"RequiresMACAddress":false}`},
			{method: "IpamDriver.GetDefaultAddressSpaces", want: `{"LocalDefaultAddressSpace":"weft","GlobalDefaultAddressSpace":"weft"}`},
		},
		"pools": {
			{
				method: "IpamDriver.RequestPool", body: `{"AddressSpace":"weft","Pool":"","SubPool":"","Options":{},"V6":false}`,
				want: `{` + pool + `,"Pool":"10.32.0.0/16","Data":{"com.docker.network.gateway":"10.32.0.0/16"}}`,
			},
			{
				method: "IpamDriver.RequestPool", body: `{"AddressSpace":"weft","Pool":"10.33.1.1/16","SubPool":"10.33.4.0/24","Options":null,"V6":false}`,
				want: `{"PoolID":"10.33.0.0/16,10.33.4.0/24","Pool":"10.33.0.0/16","Data":{"com.docker.network.gateway":"10.33.0.0/16"}}`,
			},
			{method: "IpamDriver.RequestPool", body: `{"Pool":"fd00:1::/64","V6":true}`, fails: "weft gives IPv4 addresses only: leave out --ipv6"},
			{method: "IpamDriver.RequestPool", body: `{"Pool":"192.0.2.0/24"}`, fails: "subnet 192.0.2.0/24 is not inside 10.32.0.0/12, from which weft gives addresses (--ipalloc-range): choose a part of that, or another --ipam-driver"},
			{method: "IpamDriver.RequestPool", body: `{"Pool":"10.0.0.0/8"}`, fails: "subnet 10.0.0.0/8 is not inside 10.32.0.0/12, from which weft gives addresses (--ipalloc-range): choose a part of that, or another --ipam-driver"},
			{method: "IpamDriver.RequestPool", body: `{"Pool":"10.32.0.0/31"}`, fails: "subnet 10.32.0.0/31 has no address for a container: the smallest is a /30"},
			{method: "IpamDriver.RequestPool", body: `{"Pool":"10.32.0.0/16","SubPool":"10.33.0.0/24"}`, fails: "the range of addresses 10.33.0.0/24 is not inside the subnet 10.32.0.0/16"},
			{method: "IpamDriver.RequestPool", body: `{"Pool":"lots"}`, fails: `subnet "lots": want a network such as 10.32.0.0/16`},
			{method: "IpamDriver.RequestPool", body: `{"Options":{"weft.fast":"1","other":"2"}}`, fails: "weft.fast is not an option of the allocator"},
			{method: "IpamDriver.ReleasePool", body: `{` + pool + `}`, want: `{}`},
		},
		"addresses": {
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"","Options":null}`, want: `{"Address":"10.32.0.1/16","Data":null}`, calls: []string{"reserve 10.32.0.0/16 within=invalid Prefix address=invalid IP"}, once: true},
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"10.32.7.7"}`, want: `{"Address":"10.32.7.7/16","Data":null}`, once: true},
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"10.32.7.7"}`, fails: "address 10.32.7.7 is held by web on host2"},
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"10.33.7.7"}`, fails: "address 10.33.7.7 is not inside the network's subnet 10.32.0.0/16"},
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"web"}`, fails: `"web" is not an address`},
			{
				method: "IpamDriver.RequestAddress", body: `{"PoolID":"10.33.0.0/16,10.33.4.0/30"}`, want: `{"Address":"10.33.4.1/16","Data":null}`, once: true,
				calls: []string{"reserve 10.33.0.0/16 within=10.33.4.0/30 address=invalid IP"},
			},
			{method: "IpamDriver.RequestAddress", body: `{"PoolID":"10.33.0.0/16,10.33.4.0/30"}`, want: `{"Address":"10.33.4.2/16","Data":null}`, once: true},
			{method: "IpamDriver.RequestAddress", body: `{"PoolID":"10.33.0.0/16,10.33.4.0/30"}`, fails: "no address is free in 10.33.4.0/30"},
			{
				method: "IpamDriver.RequestAddress", body: `{"PoolID":"10.33.0.0/16,10.33.4.0/30","Address":"10.33.9.9"}`, want: `{"Address":"10.33.9.9/16","Data":null}`, once: true,
				calls: []string{"reserve 10.33.0.0/16 within=invalid Prefix address=10.33.9.9"},
			},
			{method: "IpamDriver.ReleaseAddress", body: `{` + pool + `,"Address":"10.32.7.7"}`, want: `{}`, calls: []string{"unreserve 10.32.7.7"}},
			{method: "IpamDriver.ReleaseAddress", body: `{"PoolID":"LocalDefault/10.0.0.0/8","Address":"10.0.0.1"}`, fails: `"LocalDefault/10.0.0.0/8" is no address pool of weft`},
			{method: "IpamDriver.ReleaseAddress", body: `{` + pool + `,"Address":"x"}`, fails: `"x" is not an address`},
		},
		// A gateway is never an address of the switch's: each host makes the
		// network and names the same one.
		"gateways": {
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, want: `{"Address":"10.32.0.0/16","Data":null}`},
			{method: "IpamDriver.RequestAddress", body: `{` + pool + `,"Address":"10.32.0.1","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, want: `{"Address":"10.32.0.0/16","Data":null}`},
			{method: "IpamDriver.ReleaseAddress", body: `{` + pool + `,"Address":"10.32.0.0"}`, want: `{}`},
		},
		"networks": {
			{method: "NetworkDriver.CreateNetwork", body: `{"NetworkID":"` + net1 + `","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{}},"IPv4Data":[{"AddressSpace":"weft","Gateway":"10.32.0.0/16","Pool":"10.32.0.0/16"}],"IPv6Data":[]}`, want: `{}`},
			{method: "NetworkDriver.CreateNetwork", body: `{"NetworkID":"` + net2 + `","Options":{"com.docker.network.generic":{"weft.nomulticast":"true","a":"b"},"com.docker.network.internal":true},"IPv4Data":[null]}`, want: `{}`},
			{method: "NetworkDriver.CreateNetwork", body: `{"NetworkID":"` + net2 + `","Options":{"com.docker.network.generic":{"weft.speed":"9"}}}`, fails: "weft.speed is not an option of a network: there is weft.nomulticast"},
			{method: "NetworkDriver.CreateNetwork", body: `{"NetworkID":"` + net2 + `","Options":{"com.docker.network.generic":{"weft.nomulticast":"maybe"}}}`, fails: "option weft.nomulticast=maybe: want true or false"},
			{method: "NetworkDriver.CreateNetwork", body: `{"NetworkID":"` + net2 + `","IPv6Data":[{"Pool":"fd00::/64"}]}`, fails: "weft gives containers IPv4 addresses only: leave out --ipv6"},
			{method: "NetworkDriver.CreateNetwork", body: `{"NetworkID":"../x"}`, fails: `"../x" is no id of a network or an endpoint`},
			{method: "NetworkDriver.DeleteNetwork", body: `{"NetworkID":"` + net2 + `"}`, want: `{}`},
			{method: "NetworkDriver.AllocateNetwork", body: `{"NetworkID":"x"}`, fails: "a network of weft is made on each host: leave out --scope swarm, and create it on every host"},
			{method: "NetworkDriver.FreeNetwork", body: `{"NetworkID":"x"}`, want: `{}`},
			{method: "NetworkDriver.DiscoverNew", body: `{"DiscoveryType":1,"DiscoveryData":{"Address":"192.0.2.1","self":true}}`, want: `{}`},
			{method: "NetworkDriver.DiscoverDelete", body: `{"DiscoveryType":1}`, want: `{}`},
		},
		"a container": {
			{
				method: "NetworkDriver.CreateEndpoint",
				body:   `{"NetworkID":"` + net1 + `","EndpointID":"` + ep1 + `","Interface":{"Address":"10.32.0.3/16","AddressIPv6":"","MacAddress":""},"Options":{"com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]}}`,
				want:   `{"Interface":{"Address":"","AddressIPv6":"","MacAddress":"0a:00:00:00:00:01"}}`,
				calls:  []string{"add " + ep1 + " mac= [10.32.0.3/16] container= extra=[] nodns=false nomulticast=false"},
			},
			{method: "NetworkDriver.EndpointOperInfo", body: `{"NetworkID":"` + net1 + `","EndpointID":"` + ep1 + `"}`, want: `{"Value":{}}`},
			{
				method: "NetworkDriver.Join", body: `{"NetworkID":"` + net1 + `","EndpointID":"` + ep1 + `","SandboxKey":"/var/run/docker/netns/a43520720ca6","Options":{}}`,
				want: `{"InterfaceName":{"SrcName":"wvg` + ep1 + `","DstPrefix":"weft"},"Gateway":"","GatewayIPv6":"","StaticRoutes":[` +
					`{"Destination":"169.254.67.83/32","RouteType":1,"NextHop":""},{"Destination":"224.0.0.0/4","RouteType":1,"NextHop":""}],"DisableGatewayService":false}`,
				calls: []string{"join " + ep1 + " /var/run/docker/netns/a43520720ca6"},
			},
			{
				method: "NetworkDriver.CreateEndpoint",
				body:   `{"NetworkID":"` + net2 + `","EndpointID":"` + ep2 + `","Interface":{"Address":"10.33.9.9/16","MacAddress":"02:aa:bb:cc:dd:ee"},"Options":{"k":"v","weft.container":"0c4f","weft.addresses":"net:10.40.0.0/16 10.41.0.1/16","weft.nodns":"true"}}`,
				want:   `{"Interface":{"Address":"","AddressIPv6":"","MacAddress":""}}`,
				calls:  []string{"add " + ep2 + " mac=02:aa:bb:cc:dd:ee [10.33.9.9/16] container=0c4f extra=[net:10.40.0.0/16 10.41.0.1/16] nodns=true nomulticast=false"},
			},
			// The second network of a container must not bring the same routes again.
			{
				method: "NetworkDriver.Join", body: `{"EndpointID":"` + ep2 + `","SandboxKey":"/var/run/docker/netns/a43520720ca6"}`,
				want: `{"InterfaceName":{"SrcName":"wvg` + ep2 + `","DstPrefix":"weft"},"Gateway":"","GatewayIPv6":"","StaticRoutes":null,"DisableGatewayService":false}`,
			},
			{method: "NetworkDriver.ProgramExternalConnectivity", body: `{"EndpointID":"` + ep1 + `"}`, want: `{}`},
			{method: "NetworkDriver.RevokeExternalConnectivity", body: `{"EndpointID":"` + ep1 + `"}`, want: `{}`},
			{method: "NetworkDriver.Leave", body: `{"EndpointID":"` + ep1 + `"}`, want: `{}`, calls: []string{"leave " + ep1}},
			{method: "NetworkDriver.DeleteEndpoint", body: `{"EndpointID":"` + ep1 + `"}`, want: `{}`, calls: []string{"remove " + ep1}},
			{method: "NetworkDriver.Join", body: `{"EndpointID":"` + ep1 + `"}`, fails: "weft lost its state since the container began to start: start it again: there is no endpoint " + ep1},
		},
		"nonsense": {
			{method: "NetworkDriver.CreateEndpoint", body: `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.32.0.3"}}`, fails: `"10.32.0.3" is not an address with a prefix length`},
			{method: "NetworkDriver.CreateEndpoint", body: `{"NetworkID":"n","EndpointID":""}`, fails: `"" is no id of a network or an endpoint`},
			{method: "NetworkDriver.CreateEndpoint", body: `{"NetworkID":"n","EndpointID":"e","Options":{"weft.adresses":"x"}}`, fails: "weft.adresses is not an option of an endpoint: there is weft.container, weft.addresses, weft.nodns, weft.nomulticast"},
			{method: "NetworkDriver.Join", body: `{"EndpointID":"a/b"}`, fails: `"a/b" is no id of a network or an endpoint`},
			{method: "NetworkDriver.Leave", body: `{`, fails: "the request is not understood: unexpected end of JSON input"},
			{method: "NetworkDriver.Leave", body: " ", fails: errNoContent.Error()},
			{method: "NetworkDriver.Leave", body: `[1]`, fails: "the request is not understood: json: cannot unmarshal array into Go value of type network.LeaveRequest"},
			{method: "NetworkDriver.Leave", body: strings.Repeat(" ", maxBody+1), fails: "the request is larger than 1048576 bytes"},
			{method: "NetworkDriver.GwAllocCheck", body: `{}`, fails: "status 404: 404 page not found"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for i, s := range steps {
				for again := range 2 {
					if again == 1 && s.once {
						continue
					}
					got, err := r.post(s.method, s.body)
					if got != s.want || (err == nil) != (s.fails == "") || err != nil && err.Error() != s.fails {
						t.Errorf("step %d: %s(%.300s)\n got %s %v\nwant %s %s", i, s.method, s.body, got, err, s.want, s.fails)
					}
					if calls := r.backend.took(); s.calls != nil && !slices.Equal(calls, s.calls) {
						t.Errorf("step %d: %s asks the daemon %q, want %q", i, s.method, calls, s.calls)
					}
				}
			}
		})
	}
}

// TestLives drives containers through what an engine does with them, with the
// daemon's plugin restarted at every point, and wants nothing to be left.
func TestLives(t *testing.T) {
	for cut := range 12 {
		r := newRig(t)
		n := 0
		ask := func(method, format string, a ...any) {
			t.Helper()
			if n++; n == cut {
				r.again()
			}
			if _, err := r.post(method, fmt.Sprintf(format, a...)); err != nil {
				t.Errorf("cut at %d: %s: %v", cut, method, err)
			}
		}
		ask("IpamDriver.RequestPool", `{}`)
		ask("NetworkDriver.CreateNetwork", `{"NetworkID":"n","Options":{"com.docker.network.generic":{"weft.nomulticast":""}}}`)
		for life := range 2 {
			ask("IpamDriver.RequestAddress", `{"PoolID":"10.32.0.0/16"}`)
			ask("NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e%d","Interface":{"Address":"10.32.0.1/16"}}`, life)
			if calls := r.backend.took(); !strings.HasSuffix(calls[len(calls)-1], "nomulticast=true") {
				t.Errorf("cut at %d: the option of the network is forgotten: %q", cut, calls)
			}
			ask("NetworkDriver.Join", `{"NetworkID":"n","EndpointID":"e%d","SandboxKey":"/s"}`, life)
			ask("NetworkDriver.Leave", `{"NetworkID":"n","EndpointID":"e%d"}`, life)
			ask("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n","EndpointID":"e%d"}`, life)
			ask("IpamDriver.ReleaseAddress", `{"PoolID":"10.32.0.0/16","Address":"10.32.0.1"}`)
		}
		ask("IpamDriver.ReleaseAddress", `{"PoolID":"10.32.0.0/16","Address":"10.32.0.0"}`)
		ask("IpamDriver.ReleasePool", `{"PoolID":"10.32.0.0/16"}`)
		ask("NetworkDriver.DeleteNetwork", `{"NetworkID":"n"}`)
		if left := r.backend.left(); len(left) > 0 {
			t.Errorf("cut at %d: %q is left", cut, left)
		}
		if files, _ := os.ReadDir(r.config.StateDir); len(files) > 0 {
			t.Errorf("cut at %d: the file %s is left", cut, files[0].Name())
		}
	}
}

// TestSettings wants what was set for all containers to be said of each.
func TestSettings(t *testing.T) {
	r := newRig(t, func(c *Config) { c.WithoutDNS, c.NoMulticastRoute = true, true })
	if _, err := r.post("NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e"}`); err != nil {
		t.Error(err)
	}
	if want := []string{"add e mac= [] container= extra=[] nodns=true nomulticast=true"}; !slices.Equal(r.backend.took(), want) {
		t.Error("not said")
	}
	off := newRig(t, func(c *Config) { c.Range, c.Subnet = Config{}.Range, Config{}.Subnet })
	if _, err := off.post("IpamDriver.RequestPool", `{}`); err == nil || !strings.Contains(err.Error(), "allocator is off") {
		t.Errorf("without a range: %v", err)
	}
}

// TestTimeBound wants an engine never to wait for long, whatever the daemon
// does, and to be told what people can do.
func TestTimeBound(t *testing.T) {
	bodies := map[string]string{
		"IpamDriver.RequestAddress": `{"PoolID":"10.32.0.0/16"}`, "IpamDriver.ReleaseAddress": `{"PoolID":"10.32.0.0/16","Address":"10.32.0.1"}`,
		"NetworkDriver.CreateEndpoint": `{"NetworkID":"n","EndpointID":"e"}`, "NetworkDriver.Join": `{"EndpointID":"e"}`,
		"NetworkDriver.Leave": `{"EndpointID":"e"}`, "NetworkDriver.DeleteEndpoint": `{"EndpointID":"e"}`,
	}
	atOnce := map[string]string{
		"Plugin.Activate": ``, "IpamDriver.GetCapabilities": ``, "IpamDriver.GetDefaultAddressSpaces": ``, "IpamDriver.RequestPool": `{}`, "IpamDriver.ReleasePool": `{}`,
		"NetworkDriver.GetCapabilities": ``, "NetworkDriver.CreateNetwork": `{"NetworkID":"n"}`, "NetworkDriver.DeleteNetwork": `{"NetworkID":"n"}`,
		"NetworkDriver.EndpointOperInfo": `{}`, "NetworkDriver.DiscoverNew": `{}`, "NetworkDriver.ProgramExternalConnectivity": `{}`,
	}
	notThere := func(c *Config) {
		c.Backend = func(ctx context.Context) (Backend, error) { <-ctx.Done(); return nil, ctx.Err() }
	}
	hangs := func(c *Config) {
		b := newFakeBackend()
		b.set(func() { b.hangs = true })
		c.Backend = func(context.Context) (Backend, error) { return b, nil }
	}
	for name, change := range map[string]func(*Config){"not there": notThere, "hangs": hangs} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, change)
				for method, body := range atOnce {
					begun := time.Now()
					if _, err := r.post(method, body); err != nil || time.Since(begun) != 0 {
						t.Errorf("%s: %v after %s", method, err, time.Since(begun))
					}
				}
				for method, body := range bodies {
					begun := time.Now()
					_, err := r.post(method, body)
					if took := time.Since(begun); took > setUpTime || err == nil || !strings.Contains(err.Error(), "'weft status'") {
						t.Errorf("%s: %v after %s", method, err, took)
					}
				}
				if code := r.code("NetworkDriver.Leave", bodies["NetworkDriver.Leave"]); code != http.StatusServiceUnavailable {
					t.Errorf("what was not done in time is answered with %d, which says that it cannot be done", code)
				}
			})
		})
	}
}

// TestLateDaemon wants a container that starts to wait for a daemon that does.
func TestLateDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		there, b := make(chan struct{}), newFakeBackend()
		r := newRig(t, func(c *Config) {
			c.Backend = func(ctx context.Context) (Backend, error) {
				select {
				case <-there:
					return b, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		})
		time.AfterFunc(10*time.Second, func() { close(there) })
		begun := time.Now()
		got, err := r.post("IpamDriver.RequestAddress", `{"PoolID":"10.32.0.0/16"}`)
		if err != nil || got != `{"Address":"10.32.0.1/16","Data":null}` || time.Since(begun) != 10*time.Second {
			t.Errorf("%s %v after %s", got, err, time.Since(begun))
		}
	})
}

func TestErrorsAreOneLine(t *testing.T) {
	r := newRig(t)
	r.backend.set(func() { r.backend.fail = errors.New("disk on fire\nand more") })
	if _, err := r.post("NetworkDriver.Leave", `{"EndpointID":"e"}`); err == nil || err.Error() != "disk on fire and more" {
		t.Errorf("%v", err)
	}
	for err, want := range map[error]int{
		errors.New("no such endpoint"): http.StatusInternalServerError,
		&fs.PathError{Op: "write", Path: "/var/lib/weft/ipam.db", Err: syscall.ENOSPC}: http.StatusServiceUnavailable,
	} {
		r.backend.set(func() { r.backend.fail = err })
		if got := r.code("NetworkDriver.Leave", `{"EndpointID":"e"}`); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

// TestNetworksFile wants what was asked for of networks to outlive the daemon,
// and a damaged file not to be taken for none.
func TestNetworksFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), stateFile)
	n, err := openNetworks(path)
	check(t, err)
	special := networkOptions{noMulticast: true}
	check(t, n.set("a", networkOptions{}))
	if _, err := os.Stat(path); err == nil {
		t.Error("a file of nothing is written")
	}
	check(t, n.set("a", special))
	check(t, n.set("b", special))
	check(t, n.forget("a"))
	check(t, n.forget("a"))
	n, err = openNetworks(path)
	check(t, err)
	if diff := cmp.Diff(map[string]networkOptions{"b": special}, n.list, cmp.AllowUnexported(networkOptions{})); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "{", `{"Format":2}`} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := openNetworks(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q is read: %v", text, err)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzRequests wants every request to be answered: no panic, and JSON that an
// engine can read.
func FuzzRequests(f *testing.F) {
	methods := []string{
		"Plugin.Activate", "IpamDriver.RequestPool", "IpamDriver.ReleasePool", "IpamDriver.RequestAddress", "IpamDriver.ReleaseAddress",
		"NetworkDriver.CreateNetwork", "NetworkDriver.DeleteNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.DeleteEndpoint",
		"NetworkDriver.EndpointOperInfo", "NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.AllocateNetwork", "NetworkDriver.DiscoverNew",
	}
	f.Add(byte(1), []byte(`{"Pool":"10.33.0.0/16","SubPool":"10.33.4.0/24","Options":{"a":"b"},"V6":false}`))
	f.Add(byte(3), []byte(`{"PoolID":"10.33.0.0/16,10.33.4.0/24","Address":"10.33.9.9","Options":{"RequestAddressType":"com.docker.network.gateway"}}`))
	f.Add(byte(4), []byte(`{"PoolID":"10.33.0.0/16","Address":"::ffff:10.33.9.9"}`))
	f.Add(byte(5), []byte(`{"NetworkID":"n","Options":{"com.docker.network.generic":{"weft.nomulticast":true}},"IPv4Data":[null,{"Pool":"x","AuxAddresses":{"a":1}}]}`))
	f.Add(byte(7), []byte(`{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.32.0.3/16","MacAddress":"x"},"Options":{"weft.addresses":7,"weft.nodns":[]}}`))
	f.Add(byte(10), []byte(`{"EndpointID":"e","SandboxKey":"/x","Options":null}`))
	r := newRig(f)
	f.Fuzz(func(t *testing.T, method byte, body []byte) {
		r.t = t
		_, err := r.post(methods[int(method)%len(methods)], string(body))
		if err != nil && (err.Error() == "" || strings.HasPrefix(err.Error(), "status ")) {
			t.Error(err)
		}
	})
}

// FuzzPool wants an id to be that of one pool only.
func FuzzPool(f *testing.F) {
	f.Add("10.32.0.0/16")
	f.Add("10.33.0.0/16,10.33.4.0/24")
	f.Add("10.33.0.0/16,")
	f.Fuzz(func(t *testing.T, id string) {
		p, err := parsePool(id)
		if err == nil && (p.id() != id || !p.gateway().IsValid()) {
			t.Errorf("%q is read as %q", id, p.id())
		}
	})
}
