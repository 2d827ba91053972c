// Manifests to begin with.

export const examples: Record<string, string> = {
  Deployment: `apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
spec:
  replicas: 3
  selector:
    matchLabels:
      app: nginx
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx
        resources:
          requests:
            cpu: 256m
            memory: 100Mi
        ports:
        - containerPort: 80
`,
  Service: `apiVersion: v1
kind: Service
metadata:
  name: nginx-service
spec:
  selector:
    app: nginx
  ports:
  - protocol: TCP
    port: 80
    targetPort: 80
`,
  'Pod (JSON)': `{
  "apiVersion": "v1",
  "kind": "Pod",
  "metadata": { "name": "busybox" },
  "spec": {
    "restartPolicy": "Never",
    "containers": [
      { "name": "busybox", "image": "busybox", "command": ["sleep", "3600"] }
    ]
  }
}
`,
  Secret: `apiVersion: v1
kind: Secret
metadata:
  name: my-secret
type: Opaque
stringData:
  secret1.txt: This is a secret
`,
  'Config map': `apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  colour: blue
`,
  Job: `apiVersion: batch/v1
kind: Job
metadata:
  name: once
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: once
        image: busybox
        command: [sh, -c, date]
`,
};
