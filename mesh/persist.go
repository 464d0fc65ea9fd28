package mesh

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
)

// FileName is the name of the file in the state directory that holds known
// peers and targets.
const FileName = "peers.json"

// file is what peers.json holds.
type file struct {
	Version int          `json:"version"`
	Cluster string       `json:"cluster,omitempty"` // hash of its name
	Seq     uint64       `json:"seq"`               // of our last advert
	Targets []fileTarget `json:"targets"`
	Peers   []filePeer   `json:"peers"`
	Gone    []fileGhost  `json:"gone,omitempty"` // oldest first
}

type fileTarget struct {
	Target string           `json:"target"`
	Peer   *crypto.Identity `json:"peer,omitempty"` // who answered there last
}

type filePeer struct {
	Name     string         `json:"name"` // for people who read the file
	Nickname string         `json:"nickname"`
	Advert   []byte         `json:"advert"`
	Endpoint netip.AddrPort `json:"endpoint"` // of the last handshake
	Met      netip.AddrPort `json:"met"`      // WireGuard at the address of the last introduction
}

// fileGhost is a peer that was forgotten, see ghost.
type fileGhost struct {
	Peer   crypto.Identity `json:"peer"`
	Seq    uint64          `json:"seq"`
	Advert []byte          `json:"advert,omitempty"` // its last words
}

// load reads the file, if there is one. One that cannot be understood is put
// aside: known peers are found again by introduction.
func (m *Mesh) load(now time.Time) error {
	path := filepath.Join(m.cfg.StateDir, FileName)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read known peers: %w", err)
	}
	var f file
	if err == nil {
		if err := json.Unmarshal(b, &f); err != nil || f.Version != 1 {
			aside := path + ".damaged"
			m.log.Error("known peers not understood, file put aside", "file", path, "as", aside, "version", f.Version, "err", err)
			if err := os.Rename(path, aside); err != nil {
				return fmt.Errorf("put damaged file of known peers aside: %w", err)
			}
			f = file{}
		}
	}
	m.seq = f.Seq
	if cluster := m.clusterHash(); f.Cluster != "" && f.Cluster != cluster {
		m.log.Warn("the host was in another cluster: its peers and targets are forgotten", "peers", len(f.Peers))
		f.Peers, f.Targets, f.Gone = nil, nil, nil
	}
	m.names[m.cfg.Name] = m.self
	m.keys[m.cfg.Key.WireGuardPublic()] = m.self
	for _, g := range f.Gone {
		m.loadGhost(now, g)
	}
	for _, p := range f.Peers {
		a, err := advert.Parse(p.Advert)
		if err == nil && a.Identity != m.self {
			_, err = m.learn(now, a)
		}
		if err != nil {
			m.log.Warn("known peer dropped", "peer", p.Name, "err", err)
			continue
		}
		if q := m.peers[a.Identity]; q != nil {
			q.good, q.met = p.Endpoint, p.Met
		}
	}
	return m.loadTargets(now, f.Targets)
}

func (m *Mesh) loadGhost(now time.Time, g fileGhost) {
	if g.Advert == nil {
		if g.Peer != m.self && !g.Peer.IsZero() {
			m.bury(now, g.Peer, &ghost{seq: g.Seq})
		}
		return
	}
	a, err := advert.Parse(g.Advert)
	if err == nil && a.Gone && a.Identity != m.self {
		_, err = m.learn(now, a)
	}
	if err != nil {
		m.log.Warn("last words of a peer dropped", "peer", g.Peer.Fingerprint(), "err", err)
	}
}

// loadTargets joins the targets of the file, when they are to be kept, and
// those given now.
func (m *Mesh) loadTargets(now time.Time, kept []fileTarget) error {
	for _, t := range kept {
		spec, err := parseTarget(t.Target, m.cfg.Port)
		if err != nil {
			m.log.Warn("known target dropped", "target", t.Target, "err", err)
			continue
		}
		if t.Peer != nil {
			m.hints[targetKey(spec)] = *t.Peer
		}
		if m.cfg.Resume {
			if err := m.desk.connect([]string{t.Target}, false, m.cfg.Port); err != nil {
				m.log.Warn("known target dropped", "target", t.Target, "err", err)
			}
		}
	}
	if err := m.desk.connect(m.cfg.Targets, false, m.cfg.Port); err != nil {
		return err
	}
	in := m.desk.take()
	m.retarget(now, in.targets)
	if m.cfg.Pin != nil && len(m.targets) == 1 && len(m.peers) == 0 {
		m.targets[0].pin = m.cfg.Pin
	}
	return nil
}

// clusterHash tells clusters apart. Only the name counts: a new secret for the
// same cluster keeps the peers.
func (m *Mesh) clusterHash() string { return hex.EncodeToString(m.cfg.Keys.Cluster[:]) }

func (m *Mesh) encode() ([]byte, error) {
	f := file{Version: 1, Cluster: m.clusterHash(), Seq: m.seq, Targets: []fileTarget{}, Peers: []filePeer{}}
	for _, t := range m.targets {
		ft := fileTarget{Target: t.typed}
		if !t.peer.IsZero() {
			ft.Peer = &t.peer
		}
		f.Targets = append(f.Targets, ft)
	}
	for _, p := range m.peers {
		f.Peers = append(f.Peers, filePeer{
			Name: p.advert.Name.String(), Nickname: p.advert.Nickname,
			Advert: p.advert.Bytes(), Endpoint: p.good, Met: p.met,
		})
	}
	for _, id := range m.ghostsInOrder() {
		g := m.ghosts[id]
		fg := fileGhost{Peer: id, Seq: g.seq}
		if g.gone() {
			fg.Advert = g.advert.Bytes()
		}
		f.Gone = append(f.Gone, fg)
	}
	return json.MarshalIndent(f, "", "  ")
}

func (m *Mesh) write(b []byte) error {
	path := filepath.Join(m.cfg.StateDir, FileName)
	if err := renameio.WriteFile(path, b, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("save known peers: %w", err)
	}
	return nil
}

// saveNow is for the time before and after the loop.
func (m *Mesh) saveNow() error {
	m.saveAt = time.Time{}
	b, err := m.encode()
	if err != nil {
		return fmt.Errorf("save known peers: %w", err)
	}
	return m.write(b)
}

// saveSoon saves at once after a quiet time: a host that is killed right after
// it met the others must know them when it comes back.
func (m *Mesh) saveSoon(now time.Time) {
	if m.saveAt.IsZero() {
		m.saveAt = now
		if next := m.savedAt.Add(saveDelay); next.After(now) {
			m.saveAt = next
		}
	}
}

// stepSave writes in a worker, one at a time.
func (m *Mesh) stepSave(now time.Time) {
	if m.saveAt.IsZero() || m.saving {
		return
	}
	if m.saveAt.After(now) {
		m.wakeAt(m.saveAt)
		return
	}
	m.saveAt, m.savedAt = time.Time{}, now
	b, err := m.encode()
	if err != nil {
		m.log.Error("known peers not saved", "err", err)
		return
	}
	m.saving = true
	m.workers.Go(func() { m.report(saved{m.write(b)}) })
}

func (m *Mesh) saveEnded(now time.Time, e saved) {
	m.saving = false
	if e.err != nil {
		m.log.Error("known peers not saved", "err", e.err)
		m.saveAt = now.Add(retryMost)
	}
}
