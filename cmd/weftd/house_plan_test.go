package main

// What is where in the house: to be changed with docs/design.md#the-house.

// floors, lowest first: a package imports lower floors only, and one without a
// floor is rejected. Packages that do not exist yet have theirs.
var floors = [][]string{
	{"crypto"},
	{"mesh/ipam/space"},
	{"mesh/ipam/ring"},
	{"mesh/ipam/wire"},
	{"mesh/ipam/paxos", "mesh/ipam/record", "mesh/ipam/store", "router/signal", "router/udp", "router/tap/offload", "router/tap/fit", "router/workload/guess", "router/bell", "router/socket", "mesh/fields"},
	{"mesh/advert", "mesh/replica", "mesh/ipam", "dns", "router/fdb", "router/kernel", "router/changes", "router/api", "router/path", "router/relay"},
	{"router/port"},
	{"mesh/hello", "mesh/topology", "router/wireguard", "router/vxlan", "router/tap", "router/bridge", "router/attach", "router/events"},
	{"mesh", "router/workload", "router/docker", "router/docker/plugin", "router/docker/proxy", "router/cni", "router/ui", "router/doctor"},
	{"router/tunnel"},
	{"router"},
	{"cmd/settings"},
	{"cmd/weft-lab/lab"},
	{"cmd/weft-lab/bench"},
	{"cmd/weftd", "cmd/weft", "cmd/weft-cni", "cmd/weft-lab", "cmd/weft-lab/e2e"},
}

// fakes live on the floor of what they fake; only tests import them.
var fakes = map[string]string{"router/kerneltest": "router/kernel", "mesh/meshtest": "mesh"}

// doors are programs that see the daemon from outside, and what they may know.
var doors = map[string][]string{"cmd/weft": {"router/api", "cmd/settings"}, "cmd/weft-cni": {"router/api"}}

// owners of foreign modules by the longest prefix of the import path; "*" is
// everybody, "….go" a file. Tests and the laboratory are free to use all.
var owners = map[string][]string{
	"github.com/hashicorp/":                {"mesh"},
	"github.com/vishvananda/":              {"router/kernel"},
	"github.com/cilium/ebpf":               {"router/kernel"},
	"golang.zx2c4.com/wireguard":           {"router/wireguard"},
	"golang.zx2c4.com/wireguard/tun":       {"router/wireguard", "router/tap"},
	"sigs.k8s.io/knftables":                {"router/bridge"},
	"github.com/coreos/go-iptables":        {"router/bridge"},
	"github.com/coreos/go-systemd":         {"cmd/weftd"},
	"github.com/miekg/dns":                 {"dns"},
	"go.etcd.io/bbolt":                     {"mesh/ipam/store"},
	"github.com/google/renameio":           {"crypto", "mesh", "router/workload", "router/docker/plugin", "router/changes"},
	"github.com/containernetworking/":      {"router/cni", "cmd/weft-cni"},
	"github.com/moby/moby/":                {"router/docker", "router/docker/plugin", "router/docker/proxy"},
	"github.com/docker/go-plugins-helpers": {"router/docker/plugin"},
	"github.com/spf13/":                    {"cmd/settings", "cmd/weft", "cmd/weftd"},
	"github.com/knadh/koanf":               {"cmd/settings"},
	"go.yaml.in/yaml":                      {"cmd/settings"},
	"github.com/prometheus/client_golang":  {"metrics.go", "cmd/weftd"},
	"golang.org/x/crypto":                  {"crypto"},
	"golang.org/x/sync":                    {"*"},
	"golang.org/x/sys":                     {"*"},
}

var badNames = []string{"base", "common", "helper", "helpers", "manager", "misc", "shared", "types", "util", "utils"}
