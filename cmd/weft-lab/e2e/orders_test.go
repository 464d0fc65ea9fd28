package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// order is one way to start and end things. It begins and ends with everything
// running.
type order struct {
	name string
	swap bool // several of Docker's containers end together, and may swap addresses
	do   func(s *stage)
}

// orderGroup is orders that are tried on one stage.
type orderGroup struct {
	name   string
	policy string // an engine starts what was stopped before only with "always"
	orders []order
	waits  bool // for the addresses at the end
}

// orderGroups are all orders for the soak run, and otherwise those that would
// find most.
func orderGroups() []orderGroup {
	if os.Getenv("WEFT_SOAK") == "" {
		return []orderGroup{{"chosen", "always", chosenOrders(), false}}
	}
	return []orderGroup{
		{"start", "unless-stopped", startOrders(), false},
		{"kill", "always", killOrders(), true},
		{"all", "always", allOrders(), false},
		{"during", "always", duringOrders(), false},
		{"boot", "always", bootOrders(), false},
		{"away", "always", awayOrders(), false},
		{"alone", "always", append(aloneOrders(), resetOrders()...), false},
	}
}

// Every order of starting and ending the engine, the daemon and containers ends
// in a working network with nothing left over, and the engine never hangs for
// longer than one without weft.
func TestOrders(t *testing.T) {
	t.Parallel()
	skipHere(t)
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Fatal("this test needs docker.io:", err)
	}
	for _, group := range orderGroups() {
		t.Run(group.name, func(t *testing.T) {
			parallelAs(t, engined, 75*time.Second)
			s := newStage(t, group.policy)
			for _, o := range group.orders {
				t.Logf("── %s", o.name)
				s.begun, s.swap = time.Now(), o.swap
				o.do(s)
				done := time.Since(s.begun)
				t.Logf("FIGURE %s: %s of starting and ending, whole %s later", o.name, done.Round(10*time.Millisecond), s.settled(o.name).Round(10*time.Millisecond))
				if t.Failed() {
					t.FailNow() // what follows would fail for the same reason
				}
			}
			s.over(group.waits)
		})
	}
}

// chosenOrders are one of each kind.
func chosenOrders() []order {
	var list []order
	for _, o := range slices.Concat(awayOrders(), duringOrders(), allOrders()) {
		if slices.Contains([]string{
			"weft is dead; docker stop, run, start, rm",
			"weft and the engine are killed; engine; weft is away; weft, containers",
			"weft is killed 200ms after the begin of docker stop",
			"all are killed; both at once",
		}, o.name) {
			list = append(list, o)
		}
	}
	return list
}

// The parts of an order.

func startEngine(n *node) error { return n.StartDocker(n.c.t.Context()) }
func stopEngine(n *node) error  { return n.StopDocker() }

// startAll starts the containers.
func (s *stage) startAll(n *node) error {
	return n.Docker(s.t.Context(), append([]string{"start"}, s.names()...)...).Err
}

func (s *stage) stopAll(n *node) error {
	return n.Docker(s.t.Context(), append([]string{"stop"}, s.names()...)...).Err
}

// weftStops stops the daemon as people do.
func (s *stage) weftStops() {
	s.t.Helper()
	s.here.must("stop")
	s.wait("the daemon ends", time.Second, s.here.noDaemon)
}

func (s *stage) weftStarts() {
	s.t.Helper()
	begun := time.Now()
	s.here.relaunch("--resume")
	s.t.Logf("weft launch: %s", time.Since(begun).Round(10*time.Millisecond))
}

// weftLate is for what the engine may need longer when weft starts a second
// after it: it asks again after 1, 2, 4 and 8 s.
const weftLate = 7 * time.Second

// whileAway runs f and, a second later, launches weft.
func (s *stage) whileAway(what string, f func(n *node) error) {
	s.t.Helper()
	var all sync.WaitGroup
	all.Go(func() {
		took := s.both(what, weftLate, f)
		s.t.Logf("FIGURE %s, weft launched a second later: %s", what, took)
	})
	rest(s.t.Context(), time.Second)
	s.weftStarts()
	all.Wait()
}

// Everything is down, and is started in every order. A container that is started
// before its engine is one that the engine starts.
func startOrders() []order {
	down := func(s *stage, containers bool) {
		if !containers {
			s.both("docker stop", 0, s.stopAll)
		}
		s.both("the engine's end", 0, stopEngine)
		s.weftStops()
	}
	return []order{
		{"weft, engine, containers", true, func(s *stage) {
			down(s, false)
			s.weftStarts()
			s.both("the engine's start", 0, startEngine)
			s.both("docker start", 0, s.startAll)
		}},
		{"weft, containers, engine", true, func(s *stage) {
			down(s, true)
			s.weftStarts()
			s.noEngine()
			s.both("the engine's start", 0, startEngine)
		}},
		{"containers, weft, engine", true, func(s *stage) {
			down(s, true)
			s.noEngine()
			s.weftStarts()
			s.both("the engine's start", 0, startEngine)
		}},
		{"engine, weft, containers", true, func(s *stage) {
			down(s, false)
			s.whileAway("the engine's start", startEngine)
			s.both("docker start", 0, s.startAll)
		}},
		{"containers, engine, weft", true, func(s *stage) {
			down(s, true)
			s.noEngine()
			s.whileAway("the engine's start with its containers", startEngine)
		}},
		{"engine, containers, weft", true, func(s *stage) {
			down(s, false)
			took := s.both("the engine's start", spare, startEngine)
			s.t.Logf("FIGURE the engine's start without weft, of whose networks it has one: %s", took)
			s.whileAway("docker start", s.startAll)
		}},
	}
}

// noEngine wants a container not to be started without one, at once.
func (s *stage) noEngine() {
	s.t.Helper()
	begun := time.Now()
	if r := s.here.proxied("start", "plug"); r.Err == nil {
		s.t.Error("without an engine a container was started")
	}
	if r := s.here.Docker(s.t.Context(), "start", "plug"); r.Err == nil {
		s.t.Error("without an engine a container was started")
	}
	if took := time.Since(begun); took > hang {
		s.t.Errorf("without an engine it took %s to say so", took)
	}
}

// One of the three ends, gracefully or not, and is started again.
func killOrders() []order {
	return []order{
		{"containers are killed, their engine starts them", true, func(s *stage) {
			s.both("kill -9 of the containers", 0, func(n *node) error { return n.end9("sleep") })
		}},
		{"docker restart", false, func(s *stage) {
			s.both("docker restart", 0, func(n *node) error {
				return n.Docker(s.t.Context(), append([]string{"restart", "-t", "0"}, s.names()...)...).Err
			})
		}},
		{"docker stop and start", true, func(s *stage) {
			s.both("docker stop", 0, s.stopAll)
			s.both("docker start", 0, s.startAll)
		}},
		{"weft is stopped and launched", false, func(s *stage) {
			s.weftStops()
			s.weftStarts()
		}},
		{"weft is killed and launched", false, func(s *stage) {
			s.here.kill()
			s.weftStarts()
		}},
		{"the engine is stopped and started", true, func(s *stage) {
			s.both("the engine's end", 0, stopEngine)
			s.both("the engine's start", 0, startEngine)
		}},
		{"the engine is killed and started", true, func(s *stage) {
			s.both("kill -9 of the engine", 0, func(n *node) error { return n.end9Engine() })
			s.both("the engine's start", 0, startEngine)
		}},
		{"a container is removed, and made anew", false, func(s *stage) {
			s.both("docker rm -f", 0, func(n *node) error { return n.Docker(s.t.Context(), append([]string{"rm", "-f"}, s.names()...)...).Err })
			s.had = map[string]netip.Addr{}
			s.populate()
		}},
	}
}

// Several are killed at once.
func allOrders() []order {
	killAll := func(s *stage) {
		s.both("kill -9 of everything", 0, func(n *node) error { return n.end9Engine(everything()...) })
	}
	return []order{
		{"engine and weft are killed; weft, engine", true, func(s *stage) {
			s.both("kill -9 of the engine", 0, func(n *node) error { return n.end9Engine("weftd") })
			s.weftStarts()
			s.both("the engine's start", 0, startEngine)
		}},
		{"engine and weft are killed; engine, weft", true, func(s *stage) {
			s.both("kill -9 of the engine", 0, func(n *node) error { return n.end9Engine("weftd") })
			s.whileAway("the killed engine's start", startEngine)
		}},
		{"weft and containers are killed; weft", true, func(s *stage) {
			s.both("kill -9 of containers", 0, func(n *node) error { return n.end9("sleep", "weftd") })
			s.whileAway("docker ps", func(n *node) error { return n.Docker(s.t.Context(), "ps").Err })
		}},
		{"engine and containers are killed; engine", true, func(s *stage) {
			s.both("kill -9 of everything but weft", 0, func(n *node) error { return n.end9Engine("containerd", "containerd-shim", "sleep") })
			s.both("the engine's start", 0, startEngine)
		}},
		{"all are killed; weft, engine", true, func(s *stage) {
			killAll(s)
			s.weftStarts()
			s.both("the engine's start", 0, startEngine)
		}},
		{"all are killed; engine, weft", true, func(s *stage) {
			killAll(s)
			s.whileAway("the start of an engine whose containers were killed, too", startEngine)
		}},
		{"all are killed; both at once", true, func(s *stage) {
			killAll(s)
			var all sync.WaitGroup
			all.Go(s.weftStarts)
			s.both("the engine's start", 0, startEngine)
			all.Wait()
		}},
	}
}

// The daemon is killed while Docker does something.
func duringOrders() []order {
	var out []order
	during := func(what string, after time.Duration, f func(s *stage, n *node) error) {
		out = append(out, order{fmt.Sprintf("weft is killed %s after the begin of %s", after, what), false, func(s *stage) {
			var all sync.WaitGroup
			var took timing
			all.Go(func() { took = s.both(what, weftLate, func(n *node) error { return f(s, n) }) })
			rest(s.t.Context(), after)
			s.here.kill()
			s.weftStarts()
			all.Wait()
			s.t.Logf("FIGURE %s, during which weft was killed and launched: %s", what, took)
		}})
	}
	for _, after := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
		during("docker run", after, func(s *stage, n *node) error {
			return errors.Join(s.run(n, "", "new", n == s.here), n.Docker(s.t.Context(), "rm", "-f", "new").Err)
		})
		during("docker stop", after, func(s *stage, n *node) error {
			return n.Docker(s.t.Context(), "stop", "once").Err
		})
	}
	for _, after := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond} {
		during("docker run through the proxy", after, func(s *stage, n *node) error {
			socket := ""
			if n == s.here {
				socket = "unix:///var/run/weft/docker.sock"
			}
			if err := s.run(n, socket, "proxied", false); err != nil {
				s.t.Logf("docker run through the proxy: %v", err)
			}
			// It runs with the switch, or does not run.
			r := n.Docker(s.t.Context(), "ps", "-aq", "--filter", "name=proxied")
			if r.Err != nil || r.Stdout == "" {
				return r.Err
			}
			if up := n.docker("ps", "-q", "--filter", "name=proxied"); n == s.here && up != "" && n.addressesIn("proxied") == "" {
				return errors.New("a container runs without the switch")
			}
			return nil
		})
		// What was created and not connected gets the switch when it is started.
		last := &out[len(out)-1]
		begin := last.do
		last.do = func(s *stage) {
			begin(s)
			if s.here.docker("ps", "-aq", "--filter", "name=proxied") != "" {
				s.here.byProxy("start", "proxied")
				s.wait("it runs with the switch", time.Second, func() error {
					if s.here.addressesIn("proxied") == "" {
						return errors.New("a container runs without the switch")
					}
					return nil
				})
			}
			s.both("docker rm", 0, func(n *node) error {
				if n.docker("ps", "-aq", "--filter", "name=proxied") == "" {
					return nil
				}
				return n.Docker(s.t.Context(), "rm", "-f", "proxied").Err
			})
		}
	}
	return append(out,
		order{"weft is killed between docker create and docker start", false, func(s *stage) {
			s.both("docker create", 0, func(n *node) error {
				network := "bridge"
				if n == s.here {
					network = "weft"
				}
				return n.Docker(s.t.Context(), "create", "--network", network, "--name", "late", "weft-lab/busybox", "sleep", "1000000").Err
			})
			s.here.kill()
			s.whileAway("docker start", func(n *node) error { return n.Docker(s.t.Context(), "start", "late").Err })
			addr := s.here.dockerAddr("late", "weft")
			s.wait("it is known", time.Second, func() error { return s.here.lookUp("late", addr.String()) })
			s.both("docker rm", 0, func(n *node) error { return n.Docker(s.t.Context(), "rm", "-f", "late").Err })
		}},
		order{"networks are removed and made while weft is away", false, func(s *stage) {
			create := []string{"network", "create", "-d", "weft", "--ipam-driver", "weft", "--subnet", "10.33.0.0/16", "back"}
			s.here.docker(create...)
			s.here.kill()
			s.whileAway("docker network rm", func(n *node) error {
				if n == s.here {
					return n.Docker(s.t.Context(), "network", "rm", "back").Err
				}
				return nil
			})
			s.here.kill()
			s.whileAway("docker network create", func(n *node) error {
				if n == s.here {
					return n.Docker(s.t.Context(), create...).Err
				}
				return nil
			})
			s.here.docker("network", "rm", "back")
			if out := s.here.sh("cat /var/lib/weft/networks.json 2>/dev/null || true"); strings.Contains(out, "10.33.") {
				s.t.Errorf("a removed network is still known: %s", out)
			}
		}},
	)
}

// stale leaves on a host that was just booted what another boot could have.
func (s *stage) stale() {
	s.t.Helper()
	s.here.sh(`mkdir -p /run/docker/plugins /run/weft
		for p in /run/docker/plugins/weft.sock /run/weft/weft.sock /run/weft/docker.sock; do
			python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' $p; done
		ip link add weft type bridge
		ip link add wv0123456789ab type veth peer name wvg123456789ab
		ip link set wv0123456789ab master weft
		ip link set wv0123456789ab alias 'weft endpoint 0123456789abcdef'
		sed -i 's/"boot": *"[^"]*"/"boot":"another"/' /var/lib/weft/workloads.json`)
}

// Power is cut, and the host boots.
func bootOrders() []order {
	reboot := func(s *stage) {
		s.both("the reboot", 0, func(n *node) error { return n.Reboot(s.t.Context()) })
	}
	return []order{
		{"power is cut; weft, engine", true, func(s *stage) {
			reboot(s)
			s.weftStarts()
			s.both("the engine's start", 0, startEngine)
		}},
		{"power is cut; engine, weft", true, func(s *stage) {
			reboot(s)
			s.whileAway("the booted engine's start", startEngine)
		}},
		{"power is cut, and stale things are there; weft, engine", true, func(s *stage) {
			reboot(s)
			s.stale()
			s.weftStarts()
			s.both("the engine's start", 0, startEngine)
		}},
		{"power is cut, and stale things are there; engine, weft", true, func(s *stage) {
			reboot(s)
			s.stale()
			s.whileAway("the booted engine's start, with a stale socket", startEngine)
		}},
	}
}
