{{- /* The name of all objects: `<release>-operator`. */}}
{{- define "iotpipeline-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if hasSuffix "-operator" .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-operator" (.Release.Name | trunc 54 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{- define "iotpipeline-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "iotpipeline-operator.fullname" .) }}
{{- end }}

{{- /* Labels of every object of the chart. */}}
{{- define "iotpipeline-operator.labels" -}}
{{ include "iotpipeline-operator.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: iotpipeline
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "iotpipeline-operator.selectorLabels" -}}
app.kubernetes.io/name: iotpipeline-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "iotpipeline-operator.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "iotpipeline-operator.workerImage" -}}
{{- printf "%s:%s" .Values.worker.image.repository (.Values.worker.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- /* The watched namespaces as a JSON list, sorted, so that their order in the values rolls nothing. */}}
{{- define "iotpipeline-operator.namespaces" -}}
{{- if and .Values.watchAnyNamespace .Values.watchNamespaces }}
{{- fail "watchNamespaces and watchAnyNamespace exclude each other: empty the one or turn off the other" }}
{{- end }}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | sortAlpha | toJson }}
{{- end }}

{{- /* Who may reach the workers' HTTP endpoints, as a JSON list: the operator, and whoever reads metrics. */}}
{{- define "iotpipeline-operator.workerIngressFrom" -}}
{{- $labels := include "iotpipeline-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/component" "operator" }}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) }}
{{- $operator := dict "namespaceSelector" $namespace "podSelector" (dict "matchLabels" $labels) }}
{{- prepend .Values.networkPolicy.metricsFrom $operator | toJson }}
{{- end }}

{{- /* What every container of the chart may do: nothing that the restricted Pod Security Standard forbids. */}}
{{- define "iotpipeline-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end }}

{{- define "iotpipeline-operator.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}
