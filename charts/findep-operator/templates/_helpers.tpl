{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "findep.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "findep.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains .Release.Name (include "findep.name" .) -}}
{{- include "findep.name" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "findep.name" .) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The Lease by which the managers of this release agree on a leader. Releases
     in one namespace need one each. */}}
{{- define "findep.lease" -}}
{{ include "findep.fullname" . }}.findep.dev
{{- end -}}

{{- define "findep.selector" -}}
app.kubernetes.io/name: {{ include "findep.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "findep.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "findep.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "findep.serviceAccount" -}}
{{- default (ternary (include "findep.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The image called .which: registry/repository:tag. */}}
{{- define "findep.image" -}}
{{- $images := .root.Values.images -}}
{{- $image := get $images .which -}}
{{- printf "%s/%s:%s" $images.registry $image.repository ($image.tag | default $images.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{/* The namespaces of namespaced mode, as a comma-separated list. */}}
{{- define "findep.namespaces" -}}
{{- join "," (default (list .Release.Namespace) .Values.scope.namespaces) -}}
{{- end -}}

{{/* How the webhooks get their certificate; see webhooks.mode in values.yaml. */}}
{{- define "findep.webhookMode" -}}
{{- if and (eq .Values.webhooks.mode "selfManaged") (eq .Values.scope.mode "Namespaced") -}}
disabled
{{- else -}}
{{ .Values.webhooks.mode }}
{{- end -}}
{{- end -}}

{{/* The rules of the role called .name in files/role.yaml, which is a copy of
     what controller-gen made from the code. */}}
{{- define "findep.rules" -}}
{{- $name := .name -}}
{{- range splitList "---\n" (.root.Files.Get "files/role.yaml") -}}
{{- $role := fromYaml . -}}
{{- if and (eq (dig "metadata" "name" "" $role) $name) $role.rules -}}
{{ toYaml $role.rules }}
{{- end -}}
{{- end -}}
{{- end -}}
