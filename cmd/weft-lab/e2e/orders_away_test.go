package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// spare is how much longer than one without weft an engine may take for what it
// asks weft while that is away: a container that starts waits for 3 s, and
// machines are shared. It is less than the engine's patience with one socket
// that does not answer, which is 15 s.
const spare = 6*time.Second - hang

// refused wants docker to say that weft does not run.
func (s *stage) refused(n *node, args ...string) error {
	r := n.Docker(s.t.Context(), args...)
	switch {
	case n != s.here:
		return r.Err
	case r.Err == nil || !strings.Contains(r.Stderr, "weft is not running: start it with 'weft launch'"):
		return fmt.Errorf("%v: want it to fail, and to say that weft does not run", r)
	}
	return nil
}

// Weft is dead for longer than the engine is patient. The engine does not wait
// for it.
func awayOrders() []order {
	start := func(s *stage, names ...string) {
		s.both("docker start", 0, func(n *node) error { return n.Docker(s.t.Context(), append([]string{"start"}, names...)...).Err })
	}
	return []order{
		{"weft is dead; docker stop, run, start, rm", false, func(s *stage) {
			s.here.kill()
			stop := s.both("docker stop without weft", spare, func(n *node) error { return n.Docker(s.t.Context(), "stop", "once").Err })
			run := s.both("docker run without weft", spare, func(n *node) error {
				args := []string{"run", "-d", "--name", "refused", lab.DockerImage, "true"}
				if n == s.here {
					args = slices.Insert(args, 1, "--network", "weft")
				}
				return s.refused(n, args...)
			})
			again := s.both("docker start without weft", spare, func(n *node) error { return s.refused(n, "start", "once") })
			rm := s.both("docker rm without weft", spare, func(n *node) error { return n.Docker(s.t.Context(), "rm", "-f", "refused").Err })
			s.both("docker stop without weft", spare, func(n *node) error { return n.Docker(s.t.Context(), "stop", "once").Err })
			s.t.Logf("FIGURE while weft is dead: docker stop %s; docker run %s; docker start %s; docker rm %s", stop, run, again, rm)
			s.weftStarts()
		}},
		{"weft is dead; the engine is stopped and started; weft, containers", true, func(s *stage) {
			s.here.kill()
			end := s.both("the engine's end without weft", spare, stopEngine)
			begin := s.both("the engine's start without weft", spare, startEngine)
			s.t.Logf("FIGURE while weft is dead: the engine's end %s, its start %s", end, begin)
			s.weftStarts()
			start(s, "plug", "prox")
		}},
		{"weft and the engine are killed; engine; weft is away; weft, containers", true, func(s *stage) {
			s.both("kill -9 of the engine", 0, func(n *node) error { return n.end9Engine("weftd") })
			begin := s.both("the killed engine's start without weft", spare, startEngine)
			s.t.Logf("FIGURE while weft is dead: the start of an engine that was killed %s", begin)
			rest(s.t.Context(), 20*time.Second-min(begin.here, 19*time.Second))
			s.weftStarts()
			start(s, "prox", "plug")
		}},
		{"weft is stopped; networks are removed; weft", false, func(s *stage) {
			s.here.docker("network", "create", "-d", "weft", "--ipam-driver", "weft", "--subnet", "10.33.0.0/16", "-o", "weft.nomulticast=true", "back")
			s.weftStops()
			begun := time.Now()
			s.here.docker("network", "rm", "back")
			if took := time.Since(begun); took > hang {
				s.t.Errorf("docker network rm without weft: %s", took)
			}
			if err := s.refused(s.here, "network", "create", "-d", "weft", "--ipam-driver", "weft", "--subnet", "10.33.0.0/16", "back"); err != nil {
				s.t.Error(err)
			}
			s.weftStarts()
			s.wait("the network is forgotten", time.Second, func() error {
				return s.here.Run(s.t.Context(), "test", "!", "-e", "/var/lib/weft/networks.json").Err
			})
		}},
	}
}

// What keeps Docker's socket ends, too.
func aloneOrders() []order {
	return []order{
		{"what keeps the socket is killed; docker run, docker stop", false, func(s *stage) {
			if err := s.here.end9("weft-plugin"); err != nil {
				s.t.Error(err)
			}
			// Weft starts another one at once, and the engine asks again after a second.
			s.both("docker run", spare, func(n *node) error {
				return errors.Join(s.run(n, "", "new", n == s.here), n.Docker(s.t.Context(), "rm", "-f", "new").Err)
			})
			s.both("docker stop", spare, func(n *node) error { return n.Docker(s.t.Context(), "stop", "once").Err })
		}},
		{"weft and what keeps the socket are killed; docker stop, docker run", false, func(s *stage) {
			if err := s.here.end9("weftd", "weft-plugin"); err != nil {
				s.t.Error(err)
			}
			var all sync.WaitGroup
			var stop, run timing
			all.Go(func() {
				stop = s.both("docker stop without weft", 45*time.Second, func(n *node) error { return n.Docker(s.t.Context(), "stop", "once").Err })
			})
			all.Go(func() {
				run = s.both("docker run without weft", 15*time.Second, func(n *node) error {
					err := s.run(n, "", "refused", n == s.here)
					if (err != nil) != (n == s.here) {
						return fmt.Errorf("docker run: %w", err)
					}
					return n.Docker(s.t.Context(), "rm", "-f", "refused").Err
				})
			})
			rest(s.t.Context(), time.Second)
			s.both("docker ps while others wait", 0, func(n *node) error { return n.Docker(s.t.Context(), "ps").Err })
			s.both("docker inspect while others wait", 0, func(n *node) error { return n.Docker(s.t.Context(), "inspect", "plug").Err })
			s.both("docker run on a bridge while others wait", 0, func(n *node) error { return n.Docker(s.t.Context(), "run", "--rm", "weft-lab/busybox", "true").Err })
			all.Wait()
			if stop.here < 15*time.Second {
				s.t.Errorf("docker stop took %s although nobody kept the socket: the orders without weft show nothing", stop)
			}
			s.t.Logf("FIGURE while nobody keeps the socket: docker stop %s; docker run fails %s", stop, run)
			s.weftStarts()
		}},
	}
}

// The daemon is reset while containers run.
func resetOrders() []order {
	return []order{
		{"weft is reset while containers run, and launched", false, func(s *stage) {
			s.here.must("reset")
			s.here.launch(s.nodes[0].Addr().String())
			s.waitMesh(s.nodes[:2]...)
			s.waitNetwork()
			s.had = map[string]netip.Addr{}
			s.both("docker restart", 0, func(n *node) error {
				// The books are gone: who names its address comes first.
				return n.Docker(s.t.Context(), "restart", "-t", "0", "prox", "plug", "plain", "once").Err
			})
		}},
	}
}
