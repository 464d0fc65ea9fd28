package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/api"
)

// identify opens the state directory: who we are and what the cluster shares.
func (d *daemon) identify() error {
	s := d.settings
	var err error
	if d.state, err = crypto.OpenState(s.StateDir, machineID()); err != nil {
		return err
	}
	if s.Name != (crypto.Name{}) && s.Name != d.state.Name {
		if err := d.state.SetName(s.Name); err != nil {
			return err
		}
		d.log.Info("peer name set by hand", "name", s.Name)
	}
	var secret crypto.Secret
	if s.Secret.IsZero() {
		made, err := s.CheckSecret()
		if err != nil {
			return err
		}
		if made {
			if secret, err = crypto.NewSecret(); err == nil {
				_, err = crypto.SaveSecret(s.StateDir, secret, s.Cluster)
			}
			if err != nil {
				return err
			}
			d.log.Info("made a cluster secret; 'weft token' prints it", "cluster", s.Cluster)
		} else if secret, err = d.keptSecret(); err != nil {
			return err
		}
	} else {
		if secret, _, err = s.Secret.Derive(s.Cluster, s.WeakPassword); err != nil {
			return err
		}
		replaced, err := crypto.SaveSecret(s.StateDir, secret, s.Cluster)
		if err != nil {
			return err
		}
		if replaced {
			d.log.Warn("the cluster secret was replaced by the one given", "cluster", s.Cluster)
			d.notes = append(d.notes, "the cluster secret that was kept here was replaced by the one given")
		}
	}
	d.keys = secret.Keys(s.Cluster)
	token := crypto.Token{Secret: secret, Issuer: d.state.Key.Identity()}.String()
	d.token = api.Token{Token: token}
	return nil
}

// keptSecret loads the secret of a former launch. One that came from a
// password belongs to the cluster that it was given for.
func (d *daemon) keptSecret() (crypto.Secret, error) {
	dir, want := d.settings.StateDir, d.settings.Cluster
	secret, err := crypto.LoadSecret(dir)
	if err != nil {
		return secret, err
	}
	if kept, err := crypto.LoadCluster(dir); err == nil && kept != want {
		d.log.Warn("the kept secret was given for another cluster", "kept", kept, "cluster", want)
		d.notes = append(d.notes, fmt.Sprintf("the kept secret was given for cluster %s: if it was a password, give it again for %s", kept, want))
	}
	return secret, nil
}

func randomID() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a boot id: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// joinCommand is what somebody types on another host.
func joinCommand(token string, own []netip.AddrPort, s settings.Settings) string {
	host, err := os.Hostname()
	if err != nil || len(own) > 0 {
		host = "HOST"
	}
	if len(own) > 0 {
		host = own[0].Addr().String()
	}
	cmd := "weft launch --token " + token
	if s.Cluster != "weft" {
		cmd += " --cluster " + s.Cluster
	}
	if s.Port != 6783 {
		return cmd + " " + net.JoinHostPort(host, strconv.Itoa(int(s.Port)))
	}
	return cmd + " " + host
}
