package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/doctor"
)

// doctorCommand looks at the host without the daemon: `weft doctor` runs it
// when the daemon does not answer. It prints a diagnosis as JSON.
func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "doctor",
		Short:  "Say what is wrong with this host, as JSON; needs no daemon",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := load(cmd, settings.Daemon, nil)
			if err != nil {
				return err
			}
			d, err := doctor.LookBeside(cmd.Context(), doctorConfig(s), s.Socket)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(d)
		},
	}
	settings.AddFlags(cmd.Flags(), settings.Daemon)
	return cmd
}
