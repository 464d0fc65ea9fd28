package main

import (
	"github.com/spf13/cobra"

	"github.com/weftnet/weft/cmd/settings"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			return p.print([]byte("weft " + settings.Version + "\n"))
		},
	}
}

func (p *program) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show what a command does and takes",
		RunE: func(cmd *cobra.Command, args []string) error {
			about := cmd.Root()
			if len(args) > 1 {
				return usagef("takes one command, got %q and %q", args[0], args[1])
			}
			if len(args) == 1 {
				found, rest, err := cmd.Root().Find(args)
				if err != nil || found == cmd.Root() || len(rest) > 0 {
					return usagef("unknown command %q", args[0])
				}
				about = found
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

func (p *program) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print a script that completes commands in a shell",
		Example:   "  weft completion bash >/etc/bash_completion.d/weft",
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				switch args[0] {
				case "bash":
					return cmd.Root().GenBashCompletionV2(p.stdout, true)
				case "zsh":
					return cmd.Root().GenZshCompletion(p.stdout)
				case "fish":
					return cmd.Root().GenFishCompletion(p.stdout, true)
				case "powershell":
					return cmd.Root().GenPowerShellCompletionWithDesc(p.stdout)
				}
			}
			return usagef("name a shell: bash, zsh, fish or powershell")
		},
	}
}
