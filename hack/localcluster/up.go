// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/hack/localcluster/internal/cluster"
)

func upCommand(name *string) *cobra.Command {
	wanted := cluster.Defaults()
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make the cluster, or repair it; does nothing if it is up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, found, err := open(cmd, *name)
			if err != nil {
				return err
			}
			wanted.Name = *name
			if !found {
				c.Options = wanted
			} else if err := sameOptions(cmd, wanted, c.Options); err != nil {
				return err
			}
			if err := c.Up(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "export KUBECONFIG=%s\nexport PATH=%s:$PATH    # kubectl of the cluster's version\n",
				c.Paths.Kubeconfig(), c.Builder.Bin)
			return nil
		},
	}
	for _, f := range optionFlags {
		f.add(cmd, &wanted)
	}
	return cmd
}

// optionFlag is a flag that sets one option.
type optionFlag struct {
	name string
	add  func(*cobra.Command, *cluster.Options)
	same func(a, b cluster.Options) bool
}

func flagOf[T int | bool | string](name, usage string, field func(*cluster.Options) *T) optionFlag {
	return optionFlag{
		name: name,
		same: func(a, b cluster.Options) bool { return *field(&a) == *field(&b) },
		add: func(cmd *cobra.Command, o *cluster.Options) {
			switch p := any(field(o)).(type) {
			case *int:
				cmd.Flags().IntVar(p, name, *p, usage)
			case *bool:
				cmd.Flags().BoolVar(p, name, *p, usage)
			case *string:
				cmd.Flags().StringVar(p, name, *p, usage)
			}
		},
	}
}

var optionFlags = []optionFlag{
	flagOf("nodes", "number of nodes", func(o *cluster.Options) *int { return &o.Nodes }),
	flagOf("gpus", "nvidia.com/gpu that each node advertises (simulated)", func(o *cluster.Options) *int { return &o.GPUs }),
	flagOf("product", "nvidia.com/gpu.product label of the nodes", func(o *cluster.Options) *string { return &o.Product }),
	flagOf("fast-faults", "notice and replace lost nodes within about 10 s", func(o *cluster.Options) *bool { return &o.FastFaults }),
	{
		name: "node-cidr",
		same: func(a, b cluster.Options) bool { return a.NodeCIDR == b.NodeCIDR },
		add: func(cmd *cobra.Command, o *cluster.Options) {
			cmd.Flags().TextVar(&o.NodeCIDR, "node-cidr", o.NodeCIDR, "network of the bridge and the nodes")
		},
	},
	{
		name: "pod-cidr",
		same: func(a, b cluster.Options) bool { return a.PodCIDR == b.PodCIDR },
		add: func(cmd *cobra.Command, o *cluster.Options) {
			cmd.Flags().TextVar(&o.PodCIDR, "pod-cidr", o.PodCIDR, "network of the pods")
		},
	},
	{
		name: "service-cidr",
		same: func(a, b cluster.Options) bool { return a.ServiceCIDR == b.ServiceCIDR },
		add: func(cmd *cobra.Command, o *cluster.Options) {
			cmd.Flags().TextVar(&o.ServiceCIDR, "service-cidr", o.ServiceCIDR, "network of the cluster IPs")
		},
	},
	flagOf("api-port", "kube-apiserver's port on the bridge", func(o *cluster.Options) *int { return &o.APIPort }),
	flagOf("controller-manager-port", "kube-controller-manager's port on the bridge", func(o *cluster.Options) *int { return &o.ControllerPort }),
	flagOf("scheduler-port", "kube-scheduler's port on the bridge", func(o *cluster.Options) *int { return &o.SchedulerPort }),
	flagOf("etcd-port", "etcd's client port on 127.0.0.1", func(o *cluster.Options) *int { return &o.EtcdPort }),
	flagOf("etcd-peer-port", "etcd's peer port on 127.0.0.1", func(o *cluster.Options) *int { return &o.EtcdPeerPort }),
	flagOf("cni-bin-dir", "folder of the CNI plugins", func(o *cluster.Options) *string { return &o.CNIBinDir }),
}

// sameOptions refuses flags that contradict the options of a cluster that exists
// already. Flags that were not given do not count.
func sameOptions(cmd *cobra.Command, wanted, existing cluster.Options) error {
	for _, f := range optionFlags {
		if cmd.Flags().Changed(f.name) && !f.same(wanted, existing) {
			return fmt.Errorf("cluster %s was made with another --%s, which cannot change: run down first", existing.Name, f.name)
		}
	}
	return nil
}
