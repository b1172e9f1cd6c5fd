// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
)

// healthScript is the script in docs/gitops.md.
func healthScript(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(b), "```lua\n")
	script, _, closed := strings.Cut(script, "```")
	if !found || !closed {
		t.Fatal("docs/gitops.md has no Lua script")
	}
	return script
}

// luaValue turns what JSON decodes to into Lua values.
func luaValue(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		table := l.NewTable()
		for key, item := range v {
			table.RawSetString(key, luaValue(l, item))
		}
		return table
	case []any:
		table := l.NewTable()
		for _, item := range v {
			table.Append(luaValue(l, item))
		}
		return table
	case string:
		return lua.LString(v)
	case int:
		return lua.LNumber(v)
	}
	return lua.LNil
}

// TestArgoHealthScript evaluates the script as Argo CD does: with the object in
// the global "obj", and the result returned.
func TestArgoHealthScript(t *testing.T) {
	script := healthScript(t)
	condition := func(kind, status, reason string) any {
		return map[string]any{"type": kind, "status": status, "reason": reason, "message": "because of " + reason}
	}
	status := func(generation int, conditions ...any) map[string]any {
		return map[string]any{"observedGeneration": generation, "conditions": conditions}
	}
	cases := map[string]struct {
		status          map[string]any
		health, message string
	}{
		"new":                  {nil, "Progressing", "has not looked"},
		"an older generation":  {status(1, condition("Available", "True", "Serving")), "Progressing", "has not looked"},
		"the pass failed":      {status(1, condition("Progressing", "False", "ReconcileFailed")), "Degraded", "because of ReconcileFailed"},
		"starting":             {status(2, condition("Available", "False", "Starting"), condition("Progressing", "True", "Creating")), "Progressing", "because of Creating"},
		"rolling, and serving": {status(2, condition("Available", "True", "Serving"), condition("Progressing", "True", "RollingOut")), "Progressing", "because of RollingOut"},
		"serving":              {status(2, condition("Available", "True", "Serving"), condition("Progressing", "False", "Complete")), "Healthy", "because of Serving"},
		"no GPUs":              {status(2, condition("Available", "False", "Pending"), condition("Progressing", "False", "Blocked")), "Degraded", "because of Blocked"},
		"one instance is lost": {status(2, condition("Available", "True", "Serving"), condition("Progressing", "False", "Blocked")), "Degraded", "because of Blocked"},
		"paused":               {status(2, condition("Available", "True", "Serving"), condition("Progressing", "False", "Paused")), "Suspended", "because of Paused"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l := lua.NewState()
			defer l.Close()
			object := map[string]any{"metadata": map[string]any{"generation": 2}}
			if tc.status != nil {
				object["status"] = tc.status
			}
			l.SetGlobal("obj", luaValue(l, object))
			if err := l.DoString(script); err != nil {
				t.Fatal(err)
			}
			result, ok := l.Get(-1).(*lua.LTable)
			if !ok {
				t.Fatalf("got %v, want a table", l.Get(-1))
			}
			if got := result.RawGetString("status").String(); got != tc.health {
				t.Errorf("got %s, want %s", got, tc.health)
			}
			if got := result.RawGetString("message").String(); !strings.Contains(got, tc.message) {
				t.Errorf("got message %q, want %q in it", got, tc.message)
			}
		})
	}
}
